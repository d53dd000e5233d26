"""Several processes, one run: who they are, what they exchange, and how the drafter and the target are laid over them.

`accelerate launch` or `torchrun` starts the processes and says so in the environment; without either there is one.

Gradients are *summed* over the processes, once per step, in the backward pass of the last micro-batch; the loop divides
them by the denominator of the whole batch. DDP and FSDP2 average instead, which alone would be wrong, since processes
hold different numbers of anchors: the loop multiplies by `averaged_over` to undo it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ..drafters import Drafter
from ..errors import UserError
from ..models import Target
from ..models.loading import full_tensor
from ..objectives import ObjectiveSums
from .optim import Optimizers

T = TypeVar("T")


# --- processes ------------------------------------------------------------------------------------------------------


class Processes:
    """This process has the number `rank` of `world_size`, and computes on `device`. Rank 0 alone writes files.

    `all_reduce`, `any`, `all_gather` and `from_main` wait for the other processes: all must call them.
    """

    def __init__(self) -> None:
        # Without CUDA the CPU, also where accelerate would take another device: that is what the tests cover.
        state = PartialState(cpu=not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))
        self.rank, self.world_size = int(state.process_index), int(state.num_processes)
        self.device = torch.device(state.device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Every `world_size`-th item, so that neighbours sorted by length go to different processes."""
        return list(items[self.rank :: self.world_size])

    def all_reduce(self, sums: ObjectiveSums) -> ObjectiveSums:
        """The sums over all processes, in one exchange of float64."""
        if self.world_size == 1:
            return sums
        values = sums.values()
        flat = torch.cat([value.double().flatten() for value in values])
        dist.all_reduce(flat)
        parts = flat.split([value.numel() for value in values])
        return ObjectiveSums(*(part.view(value.shape) for part, value in zip(parts, values, strict=True)))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        if self.world_size == 1:
            return flag
        flags: Tensor = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags)
        return bool(flags > 0)

    def all_gather(self, items: list[T]) -> list[T]:
        """The lists of all processes as one, in the order of the ranks."""
        if self.world_size == 1:
            return items
        lists: list[Any] = [None] * self.world_size
        dist.all_gather_object(lists, items)
        return [item for part in lists for item in part]

    def from_main(self, make: Callable[[], T]) -> T:
        """Call `make` in the main process only and give its result to all; its UserError is raised in all."""
        if self.world_size == 1:
            return make()
        box: list[Any] = [None]
        if self.is_main:
            try:
                box[0] = make()
            except UserError as error:
                box[0] = error
        dist.broadcast_object_list(box)
        if isinstance(box[0], UserError):
            raise box[0]
        value: T = box[0]
        return value

    def shut_down(self) -> None:
        """Close the process group at the end of a command; torch complains about one that is left open."""
        if self.world_size > 1:
            dist.barrier()  # no process may close what another still uses
            dist.destroy_process_group()


# --- the drafter ----------------------------------------------------------------------------------------------------


class SingleProcess:
    """The drafter in one process; DDP and FSDP2 below replace what differs with several.

    `model`: what the loop calls for the forward pass. `averaged_over`: the number by which gradients come out divided.
    """

    averaged_over = 1.0

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.model: nn.Module = drafter

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Goes around forward and backward of a micro-batch; gradients are exchanged in the `last` one of a step."""
        return nullcontext()

    def clip_gradients(self, max_norm: float) -> float:
        """Scale all gradients to a joint norm of at most `max_norm`; returns the norm they had."""
        norm = torch.nn.utils.clip_grad_norm_(self.drafter.parameters(), max_norm)
        return float(full_tensor(norm))

    def unsharded(self) -> AbstractContextManager[Drafter]:
        """The drafter with all of its weights, for decoding and saving; all processes must enter together."""
        return nullcontext(self.drafter)

    def optimizer_state(self, optimizer: Optimizers) -> list[dict[str, Any]]:
        """As one process would have it, so that a run can be resumed with another number of processes."""
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: Optimizers, states: list[dict[str, Any]]) -> None:
        optimizer.load_state_dict(states)


class DDP(SingleProcess):
    """Every process holds the whole drafter."""

    def __init__(self, drafter: Drafter, processes: Processes) -> None:
        super().__init__(drafter)
        self.averaged_over = float(processes.world_size)
        self.model = self.wrapped = DistributedDataParallel(
            drafter,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,  # they never change
        )

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.wrapped.no_sync()


def copy_on_one_target(drafter: Drafter) -> Drafter:
    """A copy with weights of its own, on the same target: nothing of that is there twice."""
    target: Target | None = getattr(drafter, "target", None)
    shared = [part for part in (target, getattr(target, "embedding", None)) if part is not None]
    return copy.deepcopy(drafter, {id(part): part for part in shared})


class FSDP2(SingleProcess):
    """Every process holds a shard of the weights and of the optimiser; a step gathers the weights as one unit.

    A second drafter with whole weights waits on the CPU for decoding and saving.
    """

    def __init__(self, drafter: Drafter, processes: Processes) -> None:
        super().__init__(drafter)
        self.averaged_over = float(processes.world_size)
        self.full_drafter = copy_on_one_target(drafter).cpu()
        self.device = processes.device
        mesh = init_device_mesh(processes.device.type, (processes.world_size,))
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nobody edits it in place
        fully_shard(drafter, mesh=mesh, reshard_after_forward=False)  # the head may read weights after the forward
        assert isinstance(drafter, FSDPModule)
        self.sharded: FSDPModule = drafter

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        self.sharded.set_requires_gradient_sync(last)
        self.sharded.set_reshard_after_backward(last)  # else each micro-batch gathers all weights again
        return nullcontext()

    @contextmanager
    def unsharded(self) -> Iterator[Drafter]:
        full = dict(self.full_drafter.named_parameters())
        with torch.no_grad():
            for name, parameter in self.drafter.named_parameters():
                full[name].copy_(full_tensor(parameter))
        try:
            yield self.full_drafter.to(self.device)
        finally:
            self.full_drafter.cpu()

    def optimizer_state(self, optimizer: Optimizers) -> list[dict[str, Any]]:
        def whole(value: Any) -> Any:  # on the CPU: the shards of all processes together may not fit a GPU
            return full_tensor(value).cpu() if isinstance(value, Tensor) else value

        return [
            {**state, "state": {i: {k: whole(v) for k, v in of.items()} for i, of in state["state"].items()}}
            for state in optimizer.state_dict()
        ]

    def load_optimizer_state(self, optimizer: Optimizers, states: list[dict[str, Any]]) -> None:
        sharded = []
        for inner, state in zip(optimizer.optimizers, states, strict=True):
            parameters = [p for group in inner.param_groups for p in group["params"]]
            entries = sorted(state["state"].items())
            shards = {i: {k: shard_like(v, parameters[i]) for k, v in of.items()} for i, of in entries}
            sharded.append({**state, "state": shards})
        optimizer.load_state_dict(sharded)


def shard_like(value: Any, parameter: Tensor) -> Any:
    """A whole tensor of the optimiser's state, sharded as its parameter is; scalars such as step counts stay whole."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def distribute_drafter(drafter: Drafter, sharding: str, processes: Processes) -> SingleProcess:
    """`sharding` is ddp or fsdp2; it matters only with several processes."""
    if processes.world_size == 1:
        return SingleProcess(drafter)
    return FSDP2(drafter, processes) if sharding == "fsdp2" else DDP(drafter, processes)
