"""`ChatText`: how a target reads and writes text. It is built once, with the model or without it, and never changed."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta
from jinja2.ext import loopcontrols
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ..errors import UserError, first_line
from .names import found_target

DATE_CALL = re.compile(r"""\bstrftime_now\s*\(\s*(?P<quote>['"])(?P<format>[^'"\\]*)(?P=quote)\s*\)""")
DATE_NOTE = (
    "the chat template writes today's date into every prompt: on another day these are other texts, to which stored "
    "features and answers do not belong; set data.date (--date) to keep one"
)
THINKING_SWITCHES = ("enable_thinking", "thinking")  # what templates call it, the usual name first


@dataclass(frozen=True)
class ChatText:
    """The text side of a target.

    tokenizer: as it was loaded. Drafters are saved with it, so nothing may change it or its own chat template.
    template: the Jinja source that is rendered, with `date` written into it; None joins the messages as plain text.
    tool_template: what is rendered for conversations with tools; nearly always the same.
    stop_tokens: ids that end an answer. thinking: the template's switch, None leaves it to the template.
    date: the day that the template writes; None is today.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str | None
    tool_template: str | None
    stop_tokens: frozenset[int] = frozenset()
    thinking: bool | None = None
    date: datetime.date | None = None

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        stop_tokens: frozenset[int] = frozenset(),
        thinking: bool | None = None,
        date: datetime.date | None = None,
    ) -> ChatText:
        """The text side of a tokenizer; UserError for a thinking flag or a date that its template has no place for."""
        found: Any = tokenizer.chat_template or None
        named = found if isinstance(found, Mapping) else {"default": found}
        if "default" not in named:
            raise UserError(f"the target's tokenizer has the chat templates {', '.join(named)} and none named default")
        templates = named["default"], named.get("tool_use", named["default"])
        if date is not None:
            templates = with_date(templates[0], date), with_date(templates[1], date)
        chat = cls(tokenizer, *templates, stop_tokens, thinking, date)
        if thinking is not None:
            chat.thinking_switch()
        return chat

    @property
    def template_hash(self) -> str:
        """Short hash of the template with its date, "none" where there is none; it travels with data and results."""
        if self.template is None:
            return "none"
        both = self.template if self.template == self.tool_template else f"{self.template}{self.tool_template}"
        return hashlib.sha256(both.encode()).hexdigest()[:12]

    @property
    def writes_today(self) -> bool:
        """The template asks for the day (Llama 3.2's does): what it renders tomorrow is another text."""
        return asks_for_the_day(f"{self.template}{self.tool_template}")

    def thinking_switch(self) -> str:
        """What the template calls its thinking switch; UserError where it has none."""
        variables = variables_of(self.template or "") | variables_of(self.tool_template or "")
        for name in THINKING_SWITCHES:
            if name in variables:
                return name
        raise UserError("the target's chat template has no thinking switch; leave the thinking flag unset")

    def render(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any], answer_next: bool) -> str:
        """The text of a conversation, with the generation prompt behind it if the target answers next."""
        template = self.tool_template if tools else self.template
        if template is None:
            return "\n\n".join(message["content"] for message in messages) + ("\n\n" if answer_next else "")
        switch: dict[str, Any] = {} if self.thinking is None else {self.thinking_switch(): self.thinking}
        try:
            rendered: Any = self.tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=answer_next,
                **switch,
            )
        except Exception as error:  # templates raise their own Jinja errors
            raise UserError(f"the chat template refuses this conversation: {first_line(error)}") from None
        return str(rendered)

    def encode(self, text: str) -> list[int]:
        """Ids of already rendered text, nothing added."""
        try:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        except TypeError:
            raise UserError("a text holds half of a surrogate pair, which is no character; mend it") from None
        return ids

    @cached_property
    def adds_prefix(self) -> bool:
        """Whether the tokenizer puts a blank of its own in front of every text (SentencePiece's dummy prefix).

        The ids of a text in two pieces are then never those of the two encoded apart.
        """
        pieces = (("1", "a"), ("2", "b"), ("3", "c"))  # one may be a token of some vocabulary, not all of them
        return all(self.encode(first + second) != self.encode(first) + self.encode(second) for first, second in pieces)

    def encode_behind(self, before: str, before_ids: Sequence[int], text: str) -> list[int]:
        """Ids of `text` as it is read behind `before`, whose ids are given.

        Encoded apart, unless that would begin with a blank that is not in the text. A text whose first characters
        share a token with the end of `before` is read behind a newline.
        """
        if self.adds_prefix:
            for context, ids in ((before, list(before_ids)), ("\n", self.encode("\n"))):
                whole = self.encode(context + text)
                if whole[: len(ids)] == ids:
                    return whole[len(ids) :]
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids as it stands, special tokens included."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def with_date(template: str | None, date: datetime.date) -> str:
    """The template with `date` in place of today; the date becomes a part of it and so of its hash."""
    if not asks_for_the_day(template or ""):
        raise UserError("the target's chat template writes no date; leave the date unset")
    dated = DATE_CALL.sub(lambda call: json.dumps(date.strftime(call["format"])), template or "")
    if asks_for_the_day(dated):
        raise UserError("the target's chat template writes the date in a way that cannot be pinned; leave it unset")
    return dated


def asks_for_the_day(template: str) -> bool:
    return re.search(r"\bstrftime_now\s*\(", template) is not None


@cache
def variables_of(template: str) -> frozenset[str]:
    """What a template reads from outside: a mere word or an attribute of that name is no switch."""
    plain = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)  # tags that Transformers adds to Jinja
    try:
        return frozenset(meta.find_undeclared_variables(Environment(extensions=[loopcontrols]).parse(plain)))
    except TemplateSyntaxError as error:
        raise UserError(f"the target's chat template cannot be read: {error}") from None


def stop_tokens_of(generation: Any, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """The end tokens of a generation configuration and of a tokenizer, where there are such."""
    stops: set[int] = set()
    for found in (getattr(generation, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)):
        stops.update(found if isinstance(found, list | tuple) else [] if found is None else [found])
    return frozenset(stops)


def context_length_of(config: Any) -> int:
    """How many tokens prompt and answer may have together; practically unlimited where nothing says so."""
    return int(getattr(config, "max_position_embeddings", 0) or 1 << 20)


def load_tokenizer(name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase | None:
    """Of a directory or a Hugging Face id; None for a directory without the files of one."""
    path = Path(name)
    if path.exists() and not any(path.glob("*token*")) and not any(path.glob("vocab*")):
        return None  # Transformers would make up an empty one for some architectures
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # damaged files surface as errors of many libraries
        raise UserError(f"the tokenizer of target {name} cannot be loaded: {first_line(error)}") from None
    return tokenizer


def load_chat(
    name: str,
    trust_remote_code: bool = False,
    thinking: bool | None = None,
    date: datetime.date | None = None,
) -> tuple[ChatText, int]:
    """A target's text side and its context length in tokens, without its weights; `name` as `Target.load` takes it."""
    where = found_target(name)
    tokenizer = load_tokenizer(where, trust_remote_code)
    if tokenizer is None:
        raise no_tokenizer(name)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code).get_text_config()
        try:
            generation = GenerationConfig.from_pretrained(where)
        except OSError:
            generation = GenerationConfig.from_model_config(config)
    except Exception as error:
        raise UserError(f"config.json of target {name} cannot be read: {first_line(error)}") from None
    chat = ChatText.of(tokenizer, stop_tokens_of(generation, tokenizer), thinking, date)
    return chat, context_length_of(config)


def no_tokenizer(name: str) -> UserError:
    return UserError(f"target {name} has no tokenizer; put its tokenizer files beside its weights")
