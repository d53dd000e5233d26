"""Foreign DFlash configurations: planted wrong layouts are refused, undecided ones until the user decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paradraft.errors import UserError
from paradraft.interchange import dflash_layout
from paradraft.interchange.dflash_layout import native_config
from paradraft.interchange.layout import Foreign

WHERE = Path("drafter")
INNER = {"mask_token_id": 3, "target_layer_ids": [1, 4, 7]}
FOREIGN: dict[str, Any] = {
    "architectures": ["DFlashDraftModel"],
    "model_type": "qwen3",
    "hidden_size": 32,
    "vocab_size": 40,
    "num_hidden_layers": 2,
    "num_target_layers": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "block_size": 8,
    "torch_dtype": "float32",
    "dflash_config": INNER,
}


def understood(config: dict[str, Any], where: Path, assume: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    return dflash_layout.understood(Foreign(config, where, assume))


def with_inner(**changes: Any) -> dict[str, Any]:
    return {"dflash_config": INNER | changes}


def test_the_authors_layout_is_understood_and_written_explicitly() -> None:
    own, notes = understood(FOREIGN, WHERE, ())
    assert len(notes) == 1 and "slot 0 drafts nothing" in notes[0]
    assert own["is_causal"] is False and own["sample_from_anchor"] is False and own["dtype"] == "float32"
    assert own["dflash_config"] == INNER | {"block_size": 8, "causal": False, "sample_from_anchor": False}
    assert native_config(own, WHERE) == own
    assert understood(own, WHERE, ()) == (own, [])


@pytest.mark.parametrize("changes", [{"is_causal": True}, with_inner(causal=True), with_inner(causal_head=True)])
def test_causal_blocks_have_three_names_and_get_all_of_them(changes: dict[str, Any]) -> None:
    own, _ = understood(FOREIGN | changes, WHERE, ())
    assert own["is_causal"] is own["dflash_config"]["causal"] is own["dflash_config"]["causal_head"] is True
    assert understood(own, WHERE, ()) == (own, [])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sample_from_anchor": True}, "samples from the anchor"),
        (with_inner(sample_from_anchor=True), "samples from the anchor"),
        ({"shift_label": True}, "samples from the anchor"),
        ({"is_causal": False} | with_inner(causal=True), "both that attention inside its block is causal"),
        (with_inner(causal=False, causal_head=True), "both that attention inside its block is causal"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "sliding-window"),
        (with_inner(use_swa=True), "sliding-window"),
        (with_inner(target_layer_ids=[4, 1, 7]), "not ascending"),
        (with_inner(target_layer_ids=[1, 10]), "not those of a target with 10 layers"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0}}, "'llama3'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "a part of each head"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_theta twice"),
        ({"is_neox_style": False}, "interleaved"),
        (with_inner(block_size=16), "block_size twice"),
        (with_inner(selector_rank=256), "selector_rank 256"),
        (with_inner(something_new=1), "something_new 1"),
        ({"target_hidden_size": 64}, "target_hidden_size 64"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"head_dim": None}, "lacks head_dim"),
        ({"block_size": None}, "lacks block_size"),
    ],
)
def test_planted_differences_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        understood(FOREIGN | changes, WHERE, ("bonus-anchor", "last-layer-before-norm"))


@pytest.mark.parametrize(
    ("changes", "assumption"),
    [
        ({"num_anchors": 512}, "bonus-anchor"),
        ({"dflash_config": None, "mask_token_id": 3, "target_layer_ids": [1, 4, 7]}, "bonus-anchor"),
        (with_inner(target_layer_ids=[1, 9]), "last-layer-before-norm"),
    ],
)
def test_what_is_left_open_is_refused_until_the_user_decides(changes: dict[str, Any], assumption: str) -> None:
    with pytest.raises(UserError, match=f"--assume {assumption}"):
        understood(FOREIGN | changes, WHERE, ())
    own, notes = understood(FOREIGN | changes, WHERE, (assumption,))
    last = "reads the target's last layer before the final norm"
    assert any(last in note for note in notes) == (assumption == "last-layer-before-norm")
    assert own["dflash_config"]["mask_token_id"] == 3
