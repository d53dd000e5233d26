"""The floating-point operations of a training step, counted on models without weights: only shapes pass through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from ..drafters import Batch, Drafter
from ..errors import UserError, first_line
from ..objectives.chunked_head import chunked_head
from .config import RunConfig
from .teacher import read_teacher, stored_layers


def step_flops(config: RunConfig, drafter: Drafter, length: int, learned: int) -> tuple[int, int, int]:
    """Of a step on a text of `length` tokens, of which the target wrote the last `learned`: target, drafter, head.

    Drafter and target lie on the "meta" device. All products count that are computed, masked or not; a multiplication
    with its addition counts two. UserError for a model that cannot run there.
    """
    target, objective = drafter.target, replace(config.make_objective(), compiled=False, anchor_weighting=None)
    ids = torch.zeros(1, length, dtype=torch.long)
    grid = drafter.grid(Batch(ids, torch.arange(length)[None] >= length - learned, ids), config.training.anchors, [0])
    layers = stored_layers(target, drafter.feature_layers, objective)
    stored = torch.empty(1, length, len(layers) * target.hidden_size, device="meta") if config.data.features else None
    try:
        with ShapesAlone() as counter:
            features, blocks = read_teacher(target, grid, drafter.feature_layers, objective, stored)
            reading = counter.flops
            if drafter.vocabulary is not None:
                blocks = blocks.reduced(drafter.vocabulary.ids, drafter.vocabulary.to_draft)
            hidden = drafter(grid, features)
            before = counter.flops
            given = hidden.detach().requires_grad_()
            blocks = replace(blocks, anchors=None)  # a walk along them reads numbers
            chunked_head(given, blocks, drafter.head, objective, drafter.own_loss).loss.backward()
            head = counter.flops - before
            hidden.backward(given.grad)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"a model cannot be run without its weights: {first_line(error)}") from None
    return reading, counter.flops - reading - head, head


class ShapesAlone(TorchDispatchMode):
    """Lets tensors on the "meta" device meet those of a CPU (tokens, masks), and counts the operations of all products.

    What comes of both is on "meta". torch's own counter knows no products of rows with the matrix of each one's expert.
    """

    flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, aten = kwargs or {}, torch.ops.aten
        if any(isinstance(given, Tensor) and given.is_meta for given in tree_leaves((args, kwargs))):
            if function is aten.masked_select.default:
                function, args = aten.index.Tensor, (args[0], [args[1]])
            if function is aten.index.Tensor:  # how much a mask selects is known while it has numbers
                places = [(i,) if i is None or i.dtype != torch.bool else i.nonzero().unbind(1) for i in args[1]]
                args = (args[0], [i for part in places for i in part])
            args, kwargs = tree_map_only(Tensor, lambda given: given.to("meta"), (args, kwargs))
        result, kind = function(*args, **kwargs), function._overloadpacket
        if kind in flop_registry:
            self.flops += flop_registry[kind](*args, **kwargs, out_val=result)
        elif kind is aten._grouped_mm:
            self.flops += 2 * args[0].numel() * args[1].shape[-1]
        return result
