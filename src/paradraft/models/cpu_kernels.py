"""Linear layers for decoding on a CPU, and heads.

A verify forward multiplies a handful of rows. PyTorch's product then rearranges the whole weight matrix at every call;
oneDNN keeps it rearranged, so that ten rows cost little more than one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_BYTES = 2**30  # of weights that are packed: the packed copy comes on top of them
ROWS = 10  # that the packing is made for; others work
WORTH_A_TRIAL = 2**16  # elements of a weight
CLEARLY = 1.3  # times as fast
MANY_ROWS = 64  # beyond the rows of a draft every product is bound by arithmetic


class Product:
    """The linear layers of one input as one product, the layers' outputs side by side.

    With `pack` several rows use a copy in oneDNN's own order. A single row uses the layers themselves, in column order,
    which is faster; if an embedding shares the weight (`shared`), its rows must stay as they are, and a single row uses
    the copy too. Without `pack` the weights of several layers are laid side by side, and the layers become views of
    that. Either way the weights must be final.
    """

    def __init__(self, linears: Sequence[nn.Linear], pack: bool, shared: bool = False) -> None:
        self.linears, self.inputs = tuple(linears), linears[0].in_features
        weights = [linear.weight.detach() for linear in linears]
        biases = [
            linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
            for linear in linears
        ]
        has_bias = any(linear.bias is not None for linear in linears)
        self.weight = weights[0] if len(linears) == 1 else torch.cat(weights)
        self.bias: Tensor | None = torch.cat(biases) if has_bias else None
        self.packed: Tensor | None = None
        self.least = 0  # rows from which the packed copy is read
        if pack:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)
            if not shared:
                for linear in linears:
                    linear.weight.data = linear.weight.data.t().contiguous().t()
            self.weight = self.linears[0].weight.detach()
            self.least = rows_to_pack(self, 1 if shared else 2)
        elif len(linears) > 1:
            for linear, part in zip(linears, self.weight.split([len(weight) for weight in weights]), strict=True):
                linear.weight.data = part

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        if x.numel() < self.least * self.inputs:
            return self.by_layer(x)
        return self.by_copy(x)

    def by_layer(self, x: Tensor) -> Tensor:
        found = [F.linear(x, linear.weight, linear.bias) for linear in self.linears]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def by_copy(self, x: Tensor) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise.default
        return cast("Tensor", product(x, self.packed, self.bias, "none", [], ""))


def rows_to_pack(product: Product, usual: int) -> int:
    """Rows from which the packed copy is read: `usual`, unless a trial on this machine clearly says otherwise.

    Only clearly, and once for a shape: results should not depend on the noise of a stopwatch, not even in rounding.
    """
    shape = product.inputs, *(linear.out_features for linear in product.linears)
    if shape[0] * sum(shape[1:]) < WORTH_A_TRIAL:
        return usual
    key = (*shape, usual, torch.get_num_threads())
    if key not in _rows_to_pack:
        if gain_of_copy(product, 4) * CLEARLY < 1:
            _rows_to_pack[key] = MANY_ROWS
        else:
            gain = gain_of_copy(product, 1)
            _rows_to_pack[key] = 1 if gain > CLEARLY else 2 if gain * CLEARLY < 1 else usual
    return _rows_to_pack[key]


_rows_to_pack: dict[tuple[int, ...], int] = {}


def gain_of_copy(product: Product, rows: int) -> float:
    """How many times as fast as by layer so many rows are by the packed copy."""
    x = product.weight.new_zeros(1, rows, product.inputs)
    with torch.inference_mode():
        return shortest(lambda: product.by_layer(x)) / shortest(lambda: product.by_copy(x))


def shortest(call: Callable[[], Any], times: int = 5) -> float:
    """Seconds of the fastest of a few calls."""
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


class PackedLinear(nn.Linear):
    """A linear layer that shares `linear`'s weights and, in inference mode, multiplies as `Product` does.

    Nothing updates the packed copy: pack a model only when its weights are final. Weights that are moved or cast leave
    it behind.
    """

    def __init__(self, linear: nn.Linear, shared: bool = False) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.product: Product | None = Product((linear,), True, shared)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PackedLinear:
        self.product = None
        return cast("PackedLinear", super()._apply(fn, recurse))

    def forward(self, input: Tensor) -> Tensor:
        if self.product is None or not torch.is_inference_mode_enabled() or input.dtype != torch.float32:
            return F.linear(input, self.weight, self.bias)
        return self.product(input)


def linears_to_pack(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name, layer) of the float32 linear layers of a model on a CPU, if oneDNN is there and memory allows."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
        and not isinstance(child, PackedLinear)
        and type(child.weight) in (nn.Parameter, Tensor)  # quantising libraries have types of their own
        and child.weight.dtype == torch.float32
        and child.weight.device.type == "cpu"
    ]
    size = sum(child.weight.numel() * child.weight.element_size() for _, _, child in found)
    return found if found and size <= MOST_BYTES and packing_works() else []


def pack_for_decoding(model: nn.Module, but: Collection[nn.Module] = ()) -> None:
    """Replace the linear layers that `linears_to_pack` finds by packed ones, `but` some."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parent, name, child in linears_to_pack(model):
        if child not in but:
            setattr(parent, name, PackedLinear(child, id(child.weight) in embeddings))


def packing_works() -> bool:
    """oneDNN's packed product is PyTorch's own but not documented: it is tried against the plain one.

    On the CPU and in float32, whatever device and type the caller makes tensors of.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        plain = nn.Linear(64, 48, device="cpu", dtype=torch.float32)
        rows = torch.linspace(-1, 1, 3 * 64, device="cpu", dtype=torch.float32).view(3, 64)
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


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether products in bfloat16 run on instructions of their own; a CPU without them is hundreds of times slower."""
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
