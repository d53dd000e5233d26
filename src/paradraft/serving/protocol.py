"""The requests of OpenAI's interface that are understood, and what is said of the others.

A field that this server has no use for is refused unless it holds the value that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..files import parse_json
from .errors import ApiError

MOST_STOPS = 16
MOST_CHOICES = 128
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "metadata": ({},),
    "min_p": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""Known fields without an effect here, and the values (besides null) with which they have none anywhere."""
NEUTRAL_IN_MESSAGES: Mapping[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "refusal": (),
    "tool_calls": ([],),
}


class Strict(BaseModel):
    """Nothing is guessed: no unknown fields, no numbers in quotes."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def as_texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def nonempty(texts: list[str]) -> list[str]:
    if not all(texts):
        raise ValueError("a stop string must have a character")
    return texts


def as_content(value: Any) -> Any:
    """A message's text, which may come as a list of text parts."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('only text is understood: a string, or parts of the form {"type": "text", "text": ...}')
    return "".join(part["text"] for part in value)


def as_prompts(value: Any) -> list[str | list[int]]:
    """One prompt or several, as texts or as token ids."""
    if isinstance(value, str) or is_ids(value):
        return [value]
    if isinstance(value, list) and value and all(isinstance(one, str) or is_ids(one) for one in value):
        return value
    raise ValueError("must be a text, a list of token ids, or a list of those, and not be empty")


def is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def as_length(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError('must be a number of tokens from 1 on, or "auto"')


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(as_content)]


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Extension(Strict):
    """`paradraft` in a request: which drafter drafts (null: none) and how much; `rounds` come with the answer."""

    drafter: str | None = None
    draft_length: Annotated[int | Literal["auto"], BeforeValidator(as_length)] | None = None
    rounds: bool = False


class Asked(Strict):
    """What both kinds of request share. top_k and skip_special_tokens are vLLM's."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: (
        Annotated[list[str], BeforeValidator(as_texts), AfterValidator(nonempty), Field(max_length=MOST_STOPS)] | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    skip_special_tokens: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    paradraft: Extension = Extension()

    @property
    def with_usage(self) -> bool:
        """A stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Asked):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionRequest(Asked):
    prompt: Annotated[list[str | list[int]], BeforeValidator(as_prompts)]
    logprobs: int | None = Field(None, ge=0, le=20)


Kind = TypeVar("Kind", bound=Asked)


def read_request(kind: type[Kind], body: bytes) -> Kind:
    """ApiError 400 with a sentence for everything that is not such a request."""
    try:
        found = parse_json(body, strict=True)
    except ValueError as error:
        raise ApiError(400, f"the body is {error}") from None
    if not isinstance(found, dict):
        raise ApiError(400, "the body must be a JSON object")
    found = without_neutral(found, NEUTRAL, "")
    if isinstance(messages := found.get("messages"), list):
        found["messages"] = [
            without_neutral(one, NEUTRAL_IN_MESSAGES, f"messages.{i}.") if isinstance(one, dict) else one
            for i, one in enumerate(messages)
        ]
    try:
        asked = kind.model_validate(found)
    except ValidationError as error:
        raise complaint(error) from None
    check_together(asked)
    return asked


def without_neutral(found: dict[str, Any], neutral: Mapping[str, tuple[Any, ...]], where: str) -> dict[str, Any]:
    """Leave out fields that change nothing, refuse known ones that would."""
    for name, values in neutral.items():
        value = found.get(name)
        if value is not None and not any(value == one and is_bool(value) == is_bool(one) for one in values):
            raise ApiError(400, f"{where}{name} is not supported here; leave it out", where + name, "unsupported")
    return {name: value for name, value in found.items() if name not in neutral}


def is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def complaint(error: ValidationError) -> ApiError:
    """The first thing that is wrong, as a sentence."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))[:100]
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown field {place}", place, "unknown_field")
    if first["type"] == "missing":
        return ApiError(400, f"the field {place} is missing", place, "missing_field")
    message = first["msg"].removeprefix("Value error, ")
    where = place or "a field's name"
    return ApiError(400, f"{where}: {message[:1].lower()}{message[1:]}", place or None, "invalid_value")


def check_together(asked: Asked) -> None:
    """What no field can say alone."""
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options is for requests with stream: true", "stream_options")
    if asked.temperature is not None and 0 < asked.temperature < 1e-3:
        raise ApiError(400, "temperature must be 0 or at least 0.001", "temperature", "invalid_value")
    if isinstance(asked, ChatRequest):
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ApiError(400, "top_logprobs is for requests with logprobs: true", "top_logprobs")
        both = {asked.max_tokens, asked.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ApiError(400, "max_tokens and max_completion_tokens differ; give one of them", "max_tokens")
