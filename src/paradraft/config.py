"""Typed configuration: what every section shares, reading YAML into one, and the sections of several rooms.

A drafter's section stands beside that drafter; the whole run is `training.config.RunConfig`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError, first_line


class Section(BaseModel):
    """Immutable; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def one_of(names: Iterable[str]) -> AfterValidator:
    """A word out of `names`, such as the entries of a dictionary of methods."""
    known = tuple(names)

    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return name

    return AfterValidator(check)


class TextSource(Section):
    source: str = Field(description="file, Hugging Face id, or demo:train, as in data.train")
    weight: float = Field(1.0, gt=0, description="how often each conversation is read a pass; 0.5: half of them")


Looping = Literal["skip", "trim", "keep"]


class DataSection(Section):
    train: tuple[str | TextSource, ...] = Field(
        ("demo:train",),
        min_length=1,
        description="JSONL (.gz too), Parquet, owner/name[:subset][@split], demo:train, or {source: ..., weight: 2}",
    )
    max_length: int = Field(3072, ge=8, description="tokens of a conversation; longer ones are cut")
    limit: int | None = Field(None, ge=1, description="read only the first so many conversations of each source")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="share of bad records that is left out, not an error")
    skip_cut: bool = Field(True, description="leave out conversations whose last answer a length limit ended")
    looping: Looping = Field(
        "skip", description="conversations with an answer that repeats itself; trim: they end where it begins to"
    )
    thinking: bool | None = Field(None, description="thinking switch of the chat template; null: its own default")
    date: datetime.date | None = Field(None, description="date that the chat template writes; null: today's")
    packing: bool = Field(False, description="fill rows of max_length with whole conversations; a batch counts rows")
    features: Path | None = Field(None, description="directory of `paradraft data features`; null: computed online")

    @model_validator(mode="before")
    @classmethod
    def read_older(cls, values: Any) -> Any:
        """Runs until 2026-11-26 saved `skip_looping`."""
        if isinstance(values, Mapping) and "skip_looping" in values and "looping" not in values:
            skip = {"looping": "skip" if values["skip_looping"] else "keep"}
            return {name: value for name, value in values.items() if name != "skip_looping"} | skip
        return values

    @property
    def sources(self) -> tuple[TextSource, ...]:
        return tuple(s if isinstance(s, TextSource) else TextSource(source=s) for s in self.train)

    @model_validator(mode="after")
    def check(self) -> DataSection:
        if self.packing and self.features is not None:
            raise ValueError("data.packing and data.features exclude each other: stored features are of single texts")
        return self


class EvaluationSection(Section):
    prompts: tuple[str, ...] = Field((), description="prompt sets decoded while training; empty: no evaluation")
    every: int = Field(500, ge=1, description="steps between evaluations")
    at_start: bool = Field(True, description="also before the first step")
    limit: int = Field(64, ge=1, description="prompts of each set")
    max_new_tokens: int = Field(128, ge=1)
    batch_size: int = Field(16, ge=1)


Model = TypeVar("Model", bound=BaseModel)


def load_section(model: type[Model], path: Path, overrides: Sequence[str] = ()) -> Model:
    """Read YAML, apply `section.key=value` overrides, check everything."""
    try:
        loaded = OmegaConf.load(path)
        if not isinstance(loaded, DictConfig):
            raise UserError(f"configuration {path} must hold sections (target, drafter, ...), not a list or a value")
        merged = OmegaConf.merge(loaded, OmegaConf.from_dotlist(checked_overrides(overrides)))
        values = OmegaConf.to_container(merged, resolve=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"configuration {path} does not exist") from None
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise UserError(f"configuration {path} cannot be read: {first_line(error)}") from None
    except Exception as error:  # the YAML parser's own errors share no importable base with OmegaConf's
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"configuration {path} is not valid YAML: {problem}{where}") from None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"configuration {path}: {explain(error, model)}") from None


def checked_overrides(overrides: Sequence[str]) -> list[str]:
    for override in overrides:
        if "=" not in override:
            raise UserError(f"override {override!r} is not of the form section.key=value")
    return list(overrides)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in a sentence; an unknown key is answered with the known ones."""
    errors = error.errors()
    first = errors[0]
    if first["type"] == "literal_error":  # may be a number as well as a word
        same = first["loc"][:-1]
        first = next((e for e in errors[1:] if e["loc"][: len(same)] == same and e["loc"] != same), first)
    if first["type"] == "string_type" and isinstance(first["input"], Mapping):  # may be a section as well as a word
        first = next((other for other in errors if other["loc"][:-2] == first["loc"][:-1]), first)
    place, section = locate(first["loc"], model)
    if first["type"] == "extra_forbidden":
        return f"unknown key {place}; known here: {', '.join(section.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "model_type":  # pydantic names the class
        message = "must be a section of keys and values"
    message = {"tuple_type": "must be a list, such as [a, b]", "path_type": "must be a path"}.get(
        first["type"], message
    )
    message = message[0].lower() + message[1:]
    if isinstance(first["input"], Mapping):  # what is wrong is said; a whole section would only hide it
        return message if not place or f"{place}." in message else f"{place}: {message}"
    return f"{place or 'the run'}: {message} (got {first['input']!r})"


def locate(parts: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """The dotted name of a place, and the section that its last key stands in.

    Where a value is one of several kinds, pydantic names the kind, which the reader's file does not.
    """
    names: list[str] = []
    section = model
    holds: Any = model  # the type of what is at the place so far
    for part in parts:
        arms = arms_of(holds)
        if part in arms:
            holds = arms[part]
        elif get_origin(holds) in (Union, UnionType):  # a kind without a name of its own, such as tuple[int, ...]
            holds = None
        elif is_section(holds):
            names.append(str(part))
            holds = holds.model_fields[part].annotation if part in holds.model_fields else None
        else:  # a key of a dictionary, or a number in a list
            names.append(str(part))
            holds = next((inner for inner in reversed(get_args(holds)) if inner is not Ellipsis), None)
        section = holds if is_section(holds) else section
    return ".".join(names), section


def is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def arms_of(annotation: Any) -> dict[int | str, Any]:
    """The kinds of a union, by the names that pydantic has for them: the field `kind`, or the name of the type."""
    if get_origin(annotation) not in (Union, UnionType):
        return {}
    arms = [getattr(arm, "__origin__", arm) if get_origin(arm) is Annotated else arm for arm in get_args(annotation)]
    tagged = [arm for arm in arms if is_section(arm) and "kind" in arm.model_fields]
    named: dict[int | str, Any] = {arm.__name__: arm for arm in arms if isinstance(arm, type)}
    return named | {str(arm.model_fields["kind"].default): arm for arm in tagged}
