"""The lean forward against Transformers' own: every common architecture, ragged rows, trees, features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paradraft.models import Target, lean
from paradraft.models.cpu_kernels import Product, linears_to_pack
from paradraft.models.lean import is_common
from tests.conftest import make_model

ONEDNN = torch.backends.mkldnn.is_available()
WAYS = [False, pytest.param(True, marks=pytest.mark.skipif(not ONEDNN, reason="PyTorch is built without oneDNN"))]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3 rope": ("llama", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64}}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "wide heads": ("qwen3", {"head_dim": 16}),
    "tied": ("qwen3", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "one key head": ("llama", {"num_key_value_heads": 1}),
}


def randomised(name: str) -> Any:
    """Norms and biases are made random too: as initialised they would hide what is left out."""
    family, sizes = MODELS[name]
    model = make_model(family, **sizes)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    return model


def pair(name: str, pack: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Target, Target]:
    eager, fast = Target(randomised(name)), Target(randomised(name))
    if not pack:
        monkeypatch.setattr(lean, "linears_to_pack", lambda model: [])
    fast.prepare_decoding()
    assert fast.lean is not None
    assert all((product.packed is not None) == pack for product in fast.lean.products)
    return eager, fast


@pytest.mark.parametrize("pack", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_lean_equals_eager(name: str, pack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill, single tokens, blocks and trees, in slots side by side and apart."""
    both = pair(name, pack, monkeypatch)
    caches = [target.new_slots(4, 40) for target in both]
    torch.manual_seed(3)
    steps: list[tuple[list[int], int, list[int], Any]] = [
        ([0, 1, 3], 7, [7, 4, 6], None),
        ([0, 1, 3], 1, [1, 1, 1], None),
        ([3], 5, [2], None),
        ([3], 1, [1], None),
        ([0, 3], 5, [1, 5], torch.tensor([[-1, 0, 0, 1, 2], [-1, 0, 1, 2, 3]])),
        ([2], 1, [1], None),
        ([0, 1, 2, 3], 3, [1, 0, 3, 2], None),
    ]
    for slots, tokens, kept, parents in steps:
        ids = torch.randint(1, 40, (len(slots), tokens))
        with torch.inference_mode():
            wanted, found = (
                target.forward(ids, cache, (2, 0, 4), slots, parents)
                for target, cache in zip(both, caches, strict=True)
            )
        torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=2e-4)
        torch.testing.assert_close(found.features, wanted.features, rtol=1e-4, atol=2e-4)
        assert torch.equal(found.logits.argmax(-1), wanted.logits.argmax(-1))
        for cache in caches:
            cache.commit(torch.tensor(kept))


@pytest.mark.parametrize("pack", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_rows_of_unequally_many_tokens_give_what_padded_rows_give(
    name: str, pack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chains and trees; what is kept of them is read by the steps behind."""
    eager, fast = pair(name, pack, monkeypatch)
    assert fast.packs and not eager.packs
    caches = [target.new_slots(4, 40) for target in (eager, fast)]
    torch.manual_seed(4)
    tree = torch.tensor([[-1, 0, 0, 1, 2], [-1, 0, 1, 2, 3], [-1, 0, 0, 0, 0]])
    steps: list[tuple[list[int], int, list[int], Any]] = [
        ([0, 1, 3], 7, [7, 4, 6], None),
        ([0, 1, 3], 4, [1, 4, 2], None),
        ([0, 1, 3], 5, [5, 1, 3], tree),
        ([1, 2], 3, [1, 2], None),
        ([0, 1, 2, 3], 2, [2, 1, 1, 1], None),
        ([0, 1, 2, 3], 2, [2, 2, 2, 2], None),
    ]
    for slots, tokens, counts, parents in steps:
        ids = torch.randint(1, 40, (len(slots), tokens))
        with torch.inference_mode():
            wanted, found = (
                target.forward(ids, cache, (2, 0, 4), slots, parents, counts=counts)
                for target, cache in zip((eager, fast), caches, strict=True)
            )
        assert found.scores.numel() == sum(counts) * found.logits.shape[-1]
        assert found.logits.shape == wanted.logits.shape and wanted.scores is wanted.logits
        for row, count in enumerate(counts):
            for mine, theirs in ((found.logits, wanted.logits), (found.features, wanted.features)):
                torch.testing.assert_close(mine[row, :count], theirs[row, :count], rtol=1e-4, atol=2e-4)
            assert torch.equal(found.choices[row, :count], wanted.logits[row, :count].argmax(-1))
        for cache in caches:
            cache.commit(torch.tensor(counts))


@pytest.mark.parametrize("pack", WAYS)
def test_transformers_own_forward_says_the_same_afterwards(pack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and reading texts go on with it: the weights are laid out otherwise, not changed."""
    eager, fast = pair("qwen2", pack, monkeypatch)
    ids = torch.randint(1, 40, (2, 9))
    torch.testing.assert_close(fast.model(ids).logits, eager.model(ids).logits, rtol=1e-4, atol=1e-4)
    assert list(fast.model.state_dict()) == list(eager.model.state_dict())
    for name, weight in eager.model.state_dict().items():
        assert torch.equal(weight, fast.model.state_dict()[name])


def test_fused_weights_are_not_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = pair("llama", False, monkeypatch)
    attention = fast.model.model.layers[0].self_attn
    assert fast.lean is not None
    fused = fast.lean.layers[0].qkv.weight.untyped_storage().data_ptr()
    assert all(p.weight.untyped_storage().data_ptr() == fused for p in (attention.q_proj, attention.v_proj))


def test_other_architectures_take_their_own_forward() -> None:
    for family in ("gemma", "gemma2", "mistral", "qwen3_moe"):  # this Mistral has a window
        target = Target(make_model(family))
        target.prepare_decoding()
        assert target.lean is None
    assert not is_common(make_model("llama", hidden_act="gelu"))
    adapted = make_model("llama")
    adapted.model.layers[1].self_attn.q_proj = torch.nn.Sequential(adapted.model.layers[1].self_attn.q_proj)
    assert not is_common(adapted)


class CodedWeight(torch.Tensor):
    """Stands for the weights of quantising libraries, which put tensors of their own into plain linear layers."""


def test_quantised_models_take_their_own_forward() -> None:
    coded, marked = make_model("llama"), make_model("llama")
    projection = coded.model.layers[1].mlp.up_proj
    projection.weight = torch.nn.Parameter(projection.weight.detach().as_subclass(CodedWeight), requires_grad=False)
    assert type(projection) is torch.nn.Linear and not is_common(coded)
    assert projection not in [linear for _, _, linear in linears_to_pack(coded)]
    assert is_common(marked)
    marked.hf_quantizer = object()
    assert not is_common(marked)


def test_products_take_their_rows_where_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single row by layer, more by the packed copy, whichever it is the same."""
    linears = [torch.nn.Linear(96, size, bias=size == 8) for size in (32, 8)]
    product = Product(linears, ONEDNN)
    taken: list[str] = []
    for name in ("by_layer", "by_copy"):
        right = getattr(product, name)
        monkeypatch.setattr(product, name, lambda x, right=right, name=name: (taken.append(name), right(x))[1])
    for shape in ((1, 1), (1, 2), (2, 1), (3, 40)):
        x = torch.randn(*shape, 96)
        with torch.inference_mode():
            torch.testing.assert_close(product(x), torch.cat([linear(x) for linear in linears], dim=-1))
    if product.packed is not None:
        assert taken == ["by_layer", "by_copy", "by_copy", "by_copy"]


def test_fused_attention_may_choose_its_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does on a GPU, where heads and tokens may stand in memory the other way round."""
    right = torch.nn.functional.scaled_dot_product_attention

    def permuted(*args: Any, **kwargs: Any) -> torch.Tensor:
        return right(*args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2)

    target = Target(randomised("qwen3"))
    target.prepare_decoding()
    cache = target.new_slots(2, 20)
    ids = torch.randint(1, 40, (2, 5))
    with torch.inference_mode():
        wanted = target.forward(ids, cache).logits
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", permuted)
        assert torch.equal(target.forward(ids, cache).logits, wanted)
