"""Draft logits of an export: another order of summing is let pass, a wrong weight is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paradraft.drafters import DRAFTERS
from paradraft.errors import UserError
from paradraft.interchange.comparison import compare_logits
from paradraft.interchange.exchange import export
from paradraft.models import Target
from tests.conftest import drafter_values, make_model


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Target]:
    """A plain draft model with the target's embedding, its export, and the target, whose head lies in columns."""
    make_model("qwen3", vocab_size=297, tie_word_embeddings=request.param).save_pretrained(tmp_path / "target")
    target = Target.load(str(tmp_path / "target"))
    values = drafter_values("vanilla", init_from="target", layers=2, share_embedding=True)
    drafter = DRAFTERS["vanilla"].create(DRAFTERS["vanilla"].section.model_validate(values), target)
    drafter.save_pretrained(tmp_path / "ours")
    for to in ("vllm", "sglang", "published"):
        done = export(str(tmp_path / "ours"), to, tmp_path / to, str(tmp_path / "target"))
        assert done.compared.endswith("draft logits")
    head = target.output_embedding.weight
    assert isinstance(head, Tensor)
    head.data = head.data.t().contiguous().t()
    return tmp_path / "ours", tmp_path / "vllm", target


def scaled(tensor: Tensor) -> None:
    """One weight, the largest."""
    tensor.view(-1)[tensor.abs().argmax()] *= 1.01


def swapped(tensor: Tensor) -> None:
    tensor[[0, 1]] = tensor[[1, 0]]


def test_the_targets_head_and_a_copy_of_it_draft_the_same(shared: tuple[Path, Path, Target]) -> None:
    compare_logits(*shared)


@pytest.mark.parametrize("fault", [scaled, swapped])
def test_one_wrong_weight_is_caught(fault: Callable[[Tensor], None], shared: tuple[Path, Path, Target]) -> None:
    _, out, _ = shared
    right = load_file(out / "model.safetensors")
    head = "lm_head.weight" if "lm_head.weight" in right else "model.embed_tokens.weight"
    layer = "model.layers.1."
    for name in (
        head,
        layer + "self_attn.v_proj.weight",
        layer + "self_attn.o_proj.weight",
        layer + "mlp.up_proj.weight",
    ):
        wrong = {key: tensor.clone() for key, tensor in right.items()}
        fault(wrong[name])
        assert not torch.equal(wrong[name], right[name])
        save_file(wrong, out / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match="drafts differently"):
            compare_logits(*shared)
