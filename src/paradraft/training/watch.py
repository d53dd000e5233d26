"""Watching a run: its records, requests to stop, and losses that go wrong."""

from __future__ import annotations

import json
import math
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from ..errors import UserError
from ..files import parse_json, write_text
from .checkpoint import METRICS, complete_checkpoints, step_of
from .config import TrainingSection
from .trackers import Tracker, scalars

WINDOW = 20  # steps whose mean cross entropy is compared


@dataclass
class Progress:
    """All that changes while a run goes on, beside weights and optimiser.

    `measured_on`: what the best emitted length was measured on, see `evaluation_identity`; older runs do not
    know it, and choose their best drafter anew.
    `recent`: cross entropy of the last steps; `lowest`, `lowest_step`: their lowest mean so far, and when it was.
    """

    step: int = 0
    best_emitted_length: float = 0.0
    best_step: int = 0
    measured_on: str | None = None
    recent: list[float] = field(default_factory=list)
    lowest: float | None = None
    lowest_step: int = 0

    def diverged(self, cross_entropy: float, most: float | None) -> bool:
        """Take in a step's figure (nats a token); has the mean of the last steps risen by more than `most`?"""
        self.recent = [*self.recent, cross_entropy][-WINDOW:]
        if len(self.recent) < WINDOW:
            return False
        mean = sum(self.recent) / WINDOW
        if self.lowest is None or mean < self.lowest:
            self.lowest, self.lowest_step = mean, self.step
        return most is not None and mean > self.lowest + most


def check_finite(loss: float, norm: float, step: int, run: Path) -> None:
    """Before the optimiser's step, so that the weights are still those of the step before."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f"the loss is no longer finite at step {step} (loss {loss}, gradient norm {norm}); "
            f"{way_back(run, step - 1)} with a lower training.learning_rate"
        )


def check_progress(progress: Progress, record: dict[str, Any], section: TrainingSection, run: Path) -> None:
    """Stop a run whose cross entropy climbs; the loss itself may, since D-PACE's weights grow as it learns."""
    if progress.diverged(record["cross_entropy"], section.divergence):
        raise UserError(
            f"the loss diverges at step {progress.step}: cross entropy {sum(progress.recent) / WINDOW:.2f} over the "
            f"last {WINDOW} steps, {progress.lowest:.2f} at step {progress.lowest_step}; "
            f"{way_back(run, progress.lowest_step)} with a lower training.learning_rate, or raise training.divergence"
        )


def way_back(run: Path, step: int) -> str:
    """What to do, in words: resume from the newest complete checkpoint at `step` or before, or start again."""
    good = [path for path in complete_checkpoints(run / "checkpoints") if step_of(path) <= step]
    return f"go on from {good[-1]} (--resume)" if good else "no good checkpoint is left; start again (--resume never)"


class StopRequests:
    """Ctrl-C or a SIGTERM asks the loop to stop after the step it is in; a second Ctrl-C stops at once.

    Half a step's update must never reach a checkpoint. A second SIGTERM changes nothing: torchrun answers a Ctrl-C
    that its processes have seen themselves by sending one.
    """

    def __init__(self) -> None:
        self.requested = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self.before[signal.SIGINT])


class Records:
    """metrics.jsonl and the trackers. When a run is resumed, records of steps after the checkpoint are removed."""

    def __init__(self, run: Path, step: int, trackers: list[Tracker]) -> None:
        self.path, self.trackers = run / METRICS, trackers
        if step == 0:
            self.path.unlink(missing_ok=True)
        elif self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            write_text(self.path, "".join(line + "\n" for line in lines if step_in(line) <= step))

    def write(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        for tracker in self.trackers:
            tracker.log(scalars(record), record["step"])

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.finish()


def step_in(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity for a line that a crash cut off."""
    try:
        return int(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
