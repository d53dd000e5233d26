"""Several processes, one run: what each of them does, and sums over all of them.

`accelerate launch` or `torchrun` starts the processes and says so in the environment; without either there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor

from ..errors import UserError
from ..objectives import ObjectiveSums

T = TypeVar("T")


class Processes:
    """`index` of `count`, on `device`; the main process has index 0 and alone writes files.

    The methods that talk to the others (`sum`, `any`, `gather`, `from_main`) must be reached by all.
    """

    def __init__(self) -> None:
        # Without CUDA the CPU, also where accelerate would take another device: that is what the tests cover.
        state = PartialState(cpu=not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))
        self.index, self.count = int(state.process_index), int(state.num_processes)
        self.device = torch.device(state.device)

    @property
    def main(self) -> bool:
        return self.index == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part: every `count`-th, so that neighbours sorted by length are spread evenly."""
        return list(items[self.index :: self.count])

    def sum(self, sums: ObjectiveSums) -> ObjectiveSums:
        """Over all processes, in one exchange of float64."""
        if self.count == 1:
            return sums
        values = sums.values()
        flat = torch.cat([value.double().flatten() for value in values])
        dist.all_reduce(flat)
        parts = flat.split([value.numel() for value in values])
        return ObjectiveSums(*(part.view(value.shape) for part, value in zip(parts, values, strict=True)))

    def any(self, flag: bool) -> bool:
        if self.count == 1:
            return flag
        flags: Tensor = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags)
        return bool(flags > 0)

    def gather(self, items: list[T]) -> list[T]:
        """The lists of all processes as one, in the order of the processes."""
        if self.count == 1:
            return items
        lists: list[Any] = [None] * self.count
        dist.all_gather_object(lists, items)
        return [item for part in lists for item in part]

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns in the main process, the only one to call it; its UserError is raised in all."""
        if self.count == 1:
            return make()
        box: list[Any] = [None]
        if self.main:
            try:
                box[0] = make()
            except UserError as error:
                box[0] = error
        dist.broadcast_object_list(box)
        if isinstance(box[0], UserError):
            raise box[0]
        value: T = box[0]
        return value

    def leave(self) -> None:
        """At the end of a command: without it, torch complains about a group left open."""
        if self.count > 1:
            dist.destroy_process_group()
