"""The drafter over several processes: whole in each (DDP), or with weights and optimiser cut in pieces (FSDP2).

Either way gradients are *summed* over processes once per step, after the last micro-batch; the loop divides them by
the denominator of the whole batch. Both wrappers average, which would be wrong alone, since processes hold different
numbers of anchors: `averaged_over` takes it back.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ..drafters import Drafter
from ..models import Target
from .optim import Optimizers
from .processes import Processes

Whole = AbstractContextManager[Drafter]


class OneProcess:
    """The plain case, and what the other two have to offer.

    `model`: what the forward pass calls; `averaged_over`: by how much gradients come out too small.
    """

    averaged_over = 1.0

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.model: nn.Module = drafter

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: processes exchange gradients in the last one."""
        return nullcontext()

    def clip(self, most: float) -> float:
        """Scale all gradients to a norm of at most `most`; returns the norm before."""
        norm = torch.nn.utils.clip_grad_norm_(self.drafter.parameters(), most)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def whole(self) -> Whole:
        """The drafter with all of its weights, for decoding and saving; all processes must ask for it."""
        return nullcontext(self.drafter)

    def optimizer_state(self, optimizer: Optimizers) -> list[dict[str, Any]]:
        """As of one process, so that a run may go on with another number of them."""
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: Optimizers, states: list[dict[str, Any]]) -> None:
        optimizer.load_state_dict(states)


class Replicated(OneProcess):
    """DDP."""

    def __init__(self, drafter: Drafter, processes: Processes) -> None:
        super().__init__(drafter)
        self.averaged_over = float(processes.count)
        self.model = self.wrapped = DistributedDataParallel(drafter, gradient_as_bucket_view=True)

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.wrapped.no_sync()


class Sharded(OneProcess):
    """FSDP2 over the drafter as one unit: gathered for a step, cut again after it.

    A twin with whole weights waits on the CPU for decoding and saving.
    """

    def __init__(self, drafter: Drafter, processes: Processes) -> None:
        super().__init__(drafter)
        self.averaged_over = float(processes.count)
        target: Target | None = getattr(drafter, "target", None)
        self.twin = copy.deepcopy(drafter, {id(target): target}).cpu()
        self.device = processes.device
        mesh = init_device_mesh(processes.device.type, (processes.count,))
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nobody edits it in place
        fully_shard(drafter, mesh=mesh, reshard_after_forward=False)  # the head may read weights after the forward
        assert isinstance(drafter, FSDPModule)
        self.unit: FSDPModule = drafter

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        self.unit.set_requires_gradient_sync(last)
        self.unit.set_reshard_after_backward(last)  # else each micro-batch gathers all weights again
        return nullcontext()

    @contextmanager
    def whole(self) -> Iterator[Drafter]:
        twins = dict(self.twin.named_parameters())
        with torch.no_grad():
            for name, parameter in self.drafter.named_parameters():
                twins[name].copy_(gathered(parameter))
        try:
            yield self.twin.to(self.device)
        finally:
            self.twin.cpu()

    def optimizer_state(self, optimizer: Optimizers) -> list[dict[str, Any]]:
        return [
            {**state, "state": {i: {k: on_cpu(gathered(v)) for k, v in of.items()} for i, of in state["state"].items()}}
            for state in optimizer.state_dict()
        ]

    def load_optimizer_state(self, optimizer: Optimizers, states: list[dict[str, Any]]) -> None:
        cut = []
        for inner, state in zip(optimizer.optimizers, states, strict=True):
            parameters = [p for group in inner.param_groups for p in group["params"]]
            pieces = {i: {k: like(v, parameters[i]) for k, v in of.items()} for i, of in sorted(state["state"].items())}
            cut.append({**state, "state": pieces})
        optimizer.load_state_dict(cut)


def gathered(value: Any) -> Any:
    """A cut tensor put together, anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def on_cpu(value: Any) -> Any:
    """A tensor moved there: the pieces of all processes together may not fit a GPU."""
    return value.cpu() if isinstance(value, Tensor) else value


def like(value: Any, parameter: Tensor) -> Any:
    """A whole tensor of the optimiser cut as its parameter is; step counts stay."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def spread_drafter(drafter: Drafter, sharding: str, processes: Processes) -> OneProcess:
    """`sharding`: ddp or fsdp2; with one process there is nothing to spread."""
    if processes.count == 1:
        return OneProcess(drafter)
    return Sharded(drafter, processes) if sharding == "fsdp2" else Replicated(drafter, processes)


def shard_target(target: Target, processes: Processes) -> None:
    """Cut the target's decoder layers over the processes, in place; embedding, last norm and head stay whole.

    From then on all processes must run the target's forward equally often.
    """
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for parameter in target.model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 cuts no other
    for layer in target.layers:
        fully_shard(layer, mesh=mesh)
    rest = {p for module in (target.base, target.model) for p in module.parameters() if not isinstance(p, DTensor)}
    fully_shard(target.base, mesh=mesh, ignored_params=rest)
    target.model.to(processes.device)
    target.sharded = True
