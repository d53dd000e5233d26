"""Packed linear layers: the same products, only in inference mode, and only where the copy is worth it."""

import pytest
import torch
from torch import nn

from paradraft.models import Target, cpu_kernels
from paradraft.models.cpu_kernels import PackedLinear, linears_to_pack, pack_for_decoding, packing_works

from ..conftest import make_model

# Not `packing_works()`: where oneDNN is there but its product is wrong, the tests must fail, not be left out.
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")


@needs_onednn
def test_the_product_is_tried_and_found_right() -> None:
    assert packing_works()


@needs_onednn
def test_the_trial_is_on_the_cpu_in_float32_whatever_is_made_around_it() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            assert packing_works()
    finally:
        torch.set_default_dtype(before)


def test_where_nothing_is_to_be_packed_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "packing_works", lambda: pytest.fail("tried"))
    assert not linears_to_pack(nn.Sequential(nn.Linear(8, 8)).to(torch.bfloat16))


@needs_onednn
def test_a_wrong_product_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedLinear, "forward", lambda self, rows: torch.nn.functional.linear(rows, self.weight))
    assert not packing_works()


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 10), (3, 7), (2, 150), (0, 4)])
def test_products_are_those_of_the_plain_layer(shape: tuple[int, int], shared: bool, bias: bool) -> None:
    plain = nn.Linear(96, 160, bias=bias)
    weight = plain.weight.detach().clone()
    packed = PackedLinear(plain, shared)
    assert torch.equal(plain.weight, weight)
    x = torch.randn(*shape, 96)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), torch.nn.functional.linear(x, weight, plain.bias))


@needs_onednn
def test_training_reads_the_weights_themselves() -> None:
    packed = PackedLinear(nn.Linear(8, 8))
    with torch.no_grad():
        packed.weight += 1.0
    x = torch.randn(2, 5, 8, requires_grad=True)
    packed(x).sum().backward()
    assert packed.weight.grad is not None and x.grad is not None
    torch.testing.assert_close(packed(x), torch.nn.functional.linear(x, packed.weight, packed.bias))
    with torch.inference_mode():  # and inference the copy that was made before
        assert not torch.allclose(packed(x), torch.nn.functional.linear(x, packed.weight, packed.bias))


@needs_onednn
def test_weights_that_move_leave_their_copy_behind() -> None:
    packed = PackedLinear(nn.Linear(8, 8)).to("meta")
    with torch.inference_mode():
        assert packed(torch.empty(2, 5, 8, device="meta")).shape == (2, 5, 8)


@needs_onednn
def test_a_packed_target_says_the_same_and_saves_the_same() -> None:
    model = make_model("qwen3", tie_word_embeddings=True)
    names = list(model.state_dict())
    ids = torch.randint(0, 40, (2, 9))
    before = model(input_ids=ids).logits
    pack_for_decoding(model)
    assert isinstance(model.lm_head, PackedLinear) and model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.is_contiguous()  # the embedding reads rows
    assert list(model.state_dict()) == names
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-4, atol=1e-4)
    Target(model)


def test_what_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    half = nn.Sequential(nn.Linear(8, 8)).to(torch.bfloat16)
    pack_for_decoding(half)
    large = nn.Sequential(nn.Linear(8, 8))
    monkeypatch.setattr(cpu_kernels, "MOST_BYTES", 255)
    pack_for_decoding(large)
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    without = nn.Sequential(nn.Linear(8, 8))
    pack_for_decoding(without)
    assert {type(model[0]) for model in (half, large, without)} == {nn.Linear}
