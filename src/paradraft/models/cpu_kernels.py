"""Linear layers for decoding on a CPU, and heads.

A verify forward multiplies a handful of rows. PyTorch's product then rearranges the whole weight matrix at every call;
oneDNN keeps it rearranged, so that ten rows cost little more than one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_BYTES = 2**30  # of weights that are packed: the packed copy comes on top of them
ROWS = 10  # that the packing is made for; others work


class PackedLinear(nn.Linear):
    """A linear layer that shares `linear`'s weights and, in inference mode, reads a copy in oneDNN's own order.

    A single row is left to PyTorch's matrix-vector product, which is faster in column order; weights that an
    embedding shares must keep their rows, so there even a single row reads the copy. Nothing updates the copy: pack a
    model only when its weights are final. Weights that are moved or cast leave it behind.
    """

    def __init__(self, linear: nn.Linear, shared: bool = False) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.packed: Tensor | None = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.least = self.in_features if shared else self.in_features + 1  # elements of an input that reads the copy
        if not shared:
            self.weight.data = self.weight.data.t().contiguous().t()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PackedLinear:
        self.packed = None
        return cast("PackedLinear", super()._apply(fn, recurse))

    def forward(self, input: Tensor) -> Tensor:
        few = input.numel() < self.least
        if self.packed is None or few or not torch.is_inference_mode_enabled() or input.dtype != torch.float32:
            return F.linear(input, self.weight, self.bias)
        product = torch.ops.mkldnn._linear_pointwise.default
        return cast("Tensor", product(input, self.packed, self.bias, "none", [], ""))


def pack_for_decoding(model: nn.Module) -> None:
    """Replace the float32 linear layers of a model on a CPU by packed ones, where oneDNN is there and memory allows."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
        and not isinstance(child, PackedLinear)
        and child.weight.dtype == torch.float32
        and child.weight.device.type == "cpu"
    ]
    size = sum(child.weight.numel() * child.weight.element_size() for _, _, child in found)
    if size > MOST_BYTES or not packing_works():
        return
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child, id(child.weight) in embeddings))


def packing_works() -> bool:
    """oneDNN's packed product is PyTorch's own but not documented: it is tried against the plain one."""
    if not torch.backends.mkldnn.is_available():
        return False
    plain = nn.Linear(64, 48)
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            return torch.allclose(PackedLinear(plain)(rows), plain(rows), atol=1e-5)
    except (RuntimeError, AttributeError, TypeError):
        return False


def head_logits(model: Any, hidden: Tensor, vocabulary: int, softcap: float | None) -> Tensor:
    """Final-normed hidden states [..., hidden] of a causal LM -> logits [..., vocabulary], soft cap included."""
    return soft_capped(model.get_output_embeddings()(hidden)[..., :vocabulary], softcap)


def soft_capped(logits: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(logits / cap), or the logits as they are."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def head_is_plain(model: Any, softcap: float | None) -> bool:
    """Whether the logits are the head applied to the last hidden state; some models scale them.

    Whoever shares the head of such a model would be wrong in silence.
    """
    embedding: Tensor = model.get_input_embeddings().weight
    if embedding.is_meta:
        return True  # a model without weights, which is only counted
    ids = torch.arange(3, device=embedding.device)[None] % len(embedding)
    theirs = model(input_ids=ids, use_cache=False).logits.float()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    ours = head_logits(model, hidden, theirs.shape[-1], softcap).float()
    return torch.allclose(theirs, ours, rtol=1e-2, atol=1e-2 * float(theirs.abs().max()))
