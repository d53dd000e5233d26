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
        self.device = device
        self.started = self.last = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Up to now, without waiting for anything."""
        return time.perf_counter() - self.started

    def lap(self) -> float:
        wait_for(self.device)
        now = time.perf_counter()
        elapsed, self.last = now - self.last, now
        return elapsed


def wait_for(device: torch.device) -> None:
    """Until a GPU has done all that it was asked for; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of a call and of all that it asks of the device."""
    wait_for(device)
    started = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - started
