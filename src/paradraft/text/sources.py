"""Where conversations come from: JSONL, JSON lists (both .gz too), Parquet, Hugging Face data sets; mixed by weight.

A record that is no conversation is bad: it is left out and named by file, line and reason. A small share of bad records
is tolerated.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError, first_line
from ..models.names import is_shipped, training_file
from .conversations import BadRecord, Conversation, json_array, json_lines, parse_record

HUB_NAME = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(:(?P<subset>[\w.-]+))?(@(?P<split>[\w.-]+))?")
Item = TypeVar("Item")
FILE_ENDINGS = (".jsonl", ".json", ".gz", ".parquet")


@dataclass(frozen=True)
class Bad:
    """A record that was left out: where it stands and what is wrong with it."""

    place: str
    reason: str


@dataclass
class Reading:
    """What a source held: its conversations in order, and its bad records."""

    conversations: list[Conversation] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)

    @property
    def records(self) -> int:
        return len(self.conversations) + len(self.bad)


def read_source(name: str, limit: int | None = None, prompts: bool = False) -> Reading:
    """All conversations of a source, or the first `limit` good ones; with `prompts` they need no answers.

    Raises UserError where the source itself cannot be read; bad records are collected, not raised.
    """
    reading = Reading()
    accept: Callable[[Conversation], None] = check_prompt if prompts else check_answered
    for place, value in rows(name):
        try:
            if isinstance(value, BadRecord):
                raise value
            conversation = parse_record(value, place)
            accept(conversation)
            reading.conversations.append(conversation)
        except BadRecord as error:
            reading.bad.append(Bad(place, str(error)))
        if limit is not None and len(reading.conversations) == limit:
            break
    return reading


def check_answered(conversation: Conversation) -> None:
    if not conversation.answered:
        raise BadRecord("there is no assistant message to learn from; `paradraft data regenerate` answers prompts")


def check_prompt(conversation: Conversation) -> None:
    asked = [m for m in conversation.messages if m["role"] == "user"]
    if not asked or not all(m["content"].strip() for m in asked):
        raise BadRecord("there is no user message to answer, or an empty one")


def check_bad_share(readings: Sequence[Reading], max_bad_share: float, names: Sequence[str]) -> list[str]:
    """Notes on the bad records. Raises UserError if their share is too large, or if a source has no good record."""
    bad = [b for reading in readings for b in reading.bad]
    records = sum(reading.records for reading in readings)
    if len(bad) > max_bad_share * records:
        raise UserError(
            f"{bad[0].place}: {bad[0].reason} ({len(bad)} of {records} records are bad, more than the tolerated share "
            f"of {max_bad_share:g}: mend them, or raise data.max_bad_share or --max-bad-share)"
        )
    for name, reading in zip(names, readings, strict=True):
        if not reading.conversations:
            why = f": {reading.bad[0].place}: {reading.bad[0].reason}" if reading.bad else ""
            raise UserError(f"{name} holds no conversation{why}")
    if not bad:
        return []
    return [
        f"{len(bad)} of {records} records were left out; the first: {bad[0].place}: {bad[0].reason}",
        *(f"left out: {b.place}: {b.reason}" for b in bad[1:5]),
    ]


def weighted(conversations: Sequence[Item], weight: float, seed: str) -> list[Item]:
    """Every conversation `weight` times a pass: 2 repeats all, 0.5 takes a seeded half, in their order."""
    whole, rest = divmod(weight, 1)
    count = round(rest * len(conversations))
    sample = sorted(random.Random(seed).sample(range(len(conversations)), count))
    taken = [*conversations] * int(whole) + [conversations[i] for i in sample]
    if not taken:
        raise UserError(f"a weight of {weight:g} leaves nothing of {len(conversations)} conversations; raise it")
    return taken


# --- rows of any kind of source ----------------------------------------------------------------------------------


def rows(name: str) -> Iterator[tuple[str, Any]]:
    """(place, raw record or BadRecord) of every row of a source."""
    if is_shipped(name):
        path = training_file(name)
    else:
        path = Path(name)
        hub = HUB_NAME.fullmatch(name)
        if path.is_dir() or (hub and not path.exists() and not name.endswith(FILE_ENDINGS)):
            yield from dataset_rows(name, hub)
            return
    if path.suffix == ".parquet":
        yield from parquet_rows(path)
        return
    records = json_array(path)
    if records is not None:
        yield from ((f"{path}, record {number}", value) for number, value in enumerate(records, 1))
        return
    for number, value in json_lines(path):
        yield f"{path}, line {number}", value


def parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", without_gaps(record)
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # text in another encoding, too
        raise UserError(f"{path} cannot be read: {first_line(error)}") from None


def dataset_rows(name: str, hub: re.Match[str] | None) -> Iterator[tuple[str, Any]]:
    """Rows of a Hugging Face data set, `owner/name[:subset][@split]`, or of a directory that holds one."""
    import datasets

    directory = Path(name)
    split = None
    try:
        if directory.is_dir():
            saved = any((directory / file).is_file() for file in ("dataset_dict.json", "state.json"))
            loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
        else:
            assert hub is not None
            split = hub["split"]
            loaded = datasets.load_dataset(hub["id"], hub["subset"])
    except Exception as error:  # the library raises errors of many others
        raise UserError(f"data set {name} cannot be read: {first_line(error)}") from None
    number = 0
    try:
        for record in one_split(name, loaded, split):
            number += 1
            yield f"{name}, row {number}", without_gaps(record)
    except UserError:
        raise
    except Exception as error:  # damaged tables, images that are none
        raise UserError(f"data set {name}, row {number + 1} cannot be read: {first_line(error)}") from None


def without_gaps(value: Any) -> Any:
    """Without the null fields: a table gives every record the fields of all others, null where it has none itself."""
    if isinstance(value, dict):
        return {name: without_gaps(held) for name, held in value.items() if held is not None}
    return [without_gaps(held) for held in value] if isinstance(value, list) else value


def one_split(name: str, loaded: Any, split: str | None) -> Any:
    """The split asked for, `train`, or the only one."""
    if not isinstance(loaded, dict):
        return loaded
    chosen = split or ("train" if "train" in loaded else next(iter(loaded)) if len(loaded) == 1 else None)
    if chosen not in loaded:
        raise UserError(f"data set {name} has the splits {', '.join(loaded)}; name one of them: owner/name@split")
    return loaded[chosen]
