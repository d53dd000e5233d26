"""Writing and reading results.json, where `paradraft eval` puts a `RunResult` for each drafter, mode and prompt set.

docs/reference/results.md describes the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, write_text
from .statistics import Acceptance, EmittedLength


@dataclass(frozen=True)
class TimeSplit:
    """Seconds of decoding: drafting, the target's verify forwards, and everything else."""

    draft: float
    verify: float
    other: float


@dataclass(frozen=True)
class AgainstFirst:
    """Micro emitted length minus that of the first drafter on the same prompts, with its 95% bootstrap interval."""

    drafter: str
    mode: str
    emitted_length_difference: float
    low: float
    high: float


@dataclass(frozen=True)
class RunResult:
    """One drafter in one mode on one prompt set, against plain decoding in the same process.

    Older files lack the fields with a default. identical, identical_share: whether all answers equal those of plain
    decoding, and what share does; None if answers are sampled. Fingerprints are of the weight files, None without any.
    draft_length: drafted tokens a round, with `adaptive` at most.
    """

    target: str
    drafter: str
    mode: str
    prompts: str
    prompts_hash: str
    prompt_count: int
    template_hash: str
    temperature: float
    top_k: int
    top_p: float
    seed: int
    batch_size: int
    max_new_tokens: int
    draft_length: int
    emitted_length: EmittedLength
    loop_share: float
    acceptance: Acceptance
    tokens_per_second: float
    plain_tokens_per_second: float
    speedup: float | None
    seconds: TimeSplit
    identical: bool | None
    identical_share: float | None
    thinking: bool | None = None
    date: str | None = None
    plain_loop_share: float | None = None
    tokens: int | None = None
    rounds: int | None = None
    prefill_seconds: float | None = None
    turns_without_room: int = 0
    target_origin: str | None = None
    target_fingerprint: str | None = None
    drafter_fingerprint: str | None = None
    prompts_source: str | None = None
    prompts_licence: str | None = None
    against_first: AgainstFirst | None = None
    acceptance_rule: str = "chain"
    tree: int | None = None
    adaptive: bool = False
    mean_draft_length: float | None = None

    @property
    def length_label(self) -> str:
        """Such as K=7, or K=auto where each round chose its own; with the nodes of a tree, or that there were none."""
        length = "K=auto" if self.adaptive else f"K={self.draft_length}"
        if self.tree == 0:
            return f"{length} chains"
        return length if self.tree is None else f"{length} tree {self.tree}"

    @property
    def title(self) -> str:
        """The drafter, followed by "independent" if it drafts without the target's features."""
        return title_of(self.drafter, self.mode)


def title_of(drafter: str, mode: str) -> str:
    return f"{drafter} independent" if mode == "independent" else drafter


@dataclass(frozen=True)
class Results:
    """A whole results.json. environment: versions, hardware, dtype and threads of the process that measured."""

    runs: list[RunResult]
    environment: dict[str, Any]


PARTS: dict[str, Any] = {
    "emitted_length": EmittedLength,
    "acceptance": Acceptance,
    "seconds": TimeSplit,
    "against_first": AgainstFirst,
}
REQUIRED = {field.name for field in fields(RunResult) if field.default is MISSING}


def write_results(path: Path, runs: Sequence[RunResult], environment: dict[str, Any]) -> None:
    text = json.dumps({"runs": [asdict(run) for run in runs], "environment": environment}, indent=2)
    write_text(path, text + "\n")


def read_results(path: Path) -> Results:
    """Read a results.json of this version or an older one; a UserError names the run and the field that is wrong."""
    try:
        found = read_json(path)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error}); give a results.json of paradraft eval --out") from None
    except ValueError as error:
        raise UserError(f"{path} is {error}; give a results.json of paradraft eval --out") from None
    runs = found.get("runs") if isinstance(found, dict) else None
    if not isinstance(runs, list) or not runs:
        raise UserError(f"{path} has no list of `runs`, or an empty one; give a results.json of paradraft eval --out")
    where = f"of {path}"
    return Results([read_run(run, f"run {i} {where}") for i, run in enumerate(runs, 1)], found.get("environment") or {})


def read_run(record: Any, place: str) -> RunResult:
    """Read a run from its JSON; fields that this version does not know are dropped."""
    missing = REQUIRED - set(record) if isinstance(record, dict) else REQUIRED
    if missing:
        raise UserError(f"{place} lacks {', '.join(sorted(missing))}; write it anew with paradraft eval --out")
    values = {field.name: record[field.name] for field in fields(RunResult) if field.name in record}
    for name, part in PARTS.items():
        if values.get(name) is not None:
            try:
                values[name] = part(**values[name])
            except TypeError as error:
                raise UserError(f"{place} does not have the expected form of {name}: {error}") from None
    return RunResult(**values)
