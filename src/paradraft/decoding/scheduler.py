"""Which sequences run: first come, first served; a slot that becomes free is given to the next at once."""

from __future__ import annotations

import heapq
from collections import deque

from .request import Sequence


class Scheduler:
    """`running` is in the order of slots, which are given out from 0 on; `most` (None: no limit) may run at a time."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._free: list[int] = []
        self._used = 0  # slots that were ever given out

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Give slots to those that wait, as far as there are any; the new ones."""
        admitted: list[Sequence] = []
        while self.waiting and (self.most is None or len(self.running) + len(admitted) < self.most):
            sequence = self.waiting.popleft()
            sequence.slot = heapq.heappop(self._free) if self._free else self._used
            self._used = max(self._used, sequence.slot + 1)
            admitted.append(sequence)
        self.running = sorted(self.running + admitted, key=lambda sequence: sequence.slot or 0)
        return admitted

    def leave(self, sequences: list[Sequence]) -> list[int]:
        """Take them out, wherever they are; the slots that they held."""
        slots = [sequence.slot for sequence in sequences if sequence.slot is not None]
        for slot in slots:
            heapq.heappush(self._free, slot)
        for sequence in sequences:
            sequence.slot, sequence.finished = None, True
        self.running = [sequence for sequence in self.running if not sequence.finished]
        self.waiting = deque(sequence for sequence in self.waiting if not sequence.finished)
        return slots
