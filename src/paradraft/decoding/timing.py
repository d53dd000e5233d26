"""Where the time goes, by phase."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class Seconds:
    """Wall-clock time by phase; `prefill` is not part of decoding."""

    prefill: float = 0.0
    draft: float = 0.0
    verify: float = 0.0
    other: float = 0.0

    @property
    def decode(self) -> float:
        return self.draft + self.verify + self.other

    def add(self, more: Seconds) -> None:
        for name, value in vars(more).items():
            setattr(self, name, getattr(self, name) + value)


class Clock:
    """Laps of wall-clock time; a GPU is waited for, so that a phase pays for its own work."""

    def __init__(self, device: torch.device) -> None:
        self.wait: Callable[[], None] | None = torch.cuda.synchronize if device.type == "cuda" else None
        self.started = self.last = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Up to now, without waiting for anything."""
        return time.perf_counter() - self.started

    def lap(self) -> float:
        if self.wait is not None:
            self.wait()
        now = time.perf_counter()
        elapsed, self.last = now - self.last, now
        return elapsed
