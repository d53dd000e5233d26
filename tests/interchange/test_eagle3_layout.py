"""EAGLE-3 out to engines and back in: both counts of layers, the reduced vocabulary, and what is left open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from paradraft.drafters import Eagle3, load_drafter
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.errors import UserError
from paradraft.interchange import eagle3_layout
from paradraft.interchange.drafter_files import compare
from paradraft.interchange.exchange import export, import_checkpoint
from paradraft.interchange.layout import Foreign
from paradraft.models import Target
from tests.conftest import make_drafter_of
from tests.interchange.test_exchange import config_of, edit, saved, target

__all__ = ["target"]
WHERE = Path("drafter")
FOREIGN: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "vocab_size": 40,
    "draft_vocab_size": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "torch_dtype": "float16",
    "eagle_aux_hidden_state_layer_ids": [2, 5],
}


def understood(config: dict[str, Any], assume: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    return eagle3_layout.understood(Foreign(config, WHERE, assume))


@pytest.mark.parametrize("to", ["vllm", "sglang", "published"])
@pytest.mark.parametrize("ids", [None, [2, 5, 11]])
def test_out_and_back(to: str, ids: list[int] | None, target: Target, target_directory: Path, tmp_path: Path) -> None:
    drafter = make_drafter_of("eagle3", target)
    if ids is not None:
        drafter.restrict(DraftVocabulary(torch.tensor(ids), target.vocabulary_size))
    drafter.save_pretrained(tmp_path / "ours")
    edit(tmp_path / "ours", stray=1)
    done = export(str(tmp_path / "ours"), to, tmp_path / "out", str(target_directory))
    assert done.compared.endswith("draft logits")
    config, tensors = config_of(tmp_path / "out"), load_file(tmp_path / "out" / "model.safetensors")
    assert "stray" not in config and config["draft_vocab_size"] == (3 if ids else target.vocabulary_size)
    listed = config["eagle_aux_hidden_state_layer_ids"]
    assert listed == [i + 1 for i in drafter.feature_layers]
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [i - 1 for i in listed]
    if ids is None:
        assert "d2t" not in tensors and "t2d" not in tensors
    else:
        assert tensors["d2t"].dtype == torch.int64 and (tensors["d2t"] + torch.arange(3)).tolist() == ids
        assert tensors["t2d"].dtype == torch.bool and tensors["t2d"].nonzero().flatten().tolist() == ids
    assert "embed_tokens.weight" not in tensors
    where = json.dumps(str(tmp_path / "out"))
    command = {"vllm": f'"method": "eagle3", "model": {where}, "num_speculative_tokens": 5', "sglang": "EAGLE3"}
    assert command.get(to, "") in " ".join(done.notes)
    import_checkpoint(str(tmp_path / "out"), tmp_path / "again", str(target_directory))
    compare(
        load_file(tmp_path / "ours" / "model.safetensors"), load_file(tmp_path / "again/model.safetensors"), tmp_path
    )
    again = load_drafter(tmp_path / "again", target)
    assert isinstance(again, Eagle3) and again.config == drafter.config  # type: ignore[comparison-overlap]


def test_no_other_format_has_it(target: Target, target_directory: Path, tmp_path: Path) -> None:
    ours = saved("eagle3", target, tmp_path / "ours")
    for to in ("transformers", "speculators"):
        with pytest.raises(UserError):
            export(str(ours), to, tmp_path / "out", str(target_directory))
    assert not (tmp_path / "out").exists()


def test_a_foreign_drafter(target: Target, target_directory: Path, tmp_path: Path) -> None:
    """Other names of the layer, the target's embedding beside it, a whole vocabulary with maps that change nothing."""
    ours = saved("eagle3", target, tmp_path / "ours")
    own = load_file(ours / "model.safetensors")
    size = target.vocabulary_size
    foreign = {name.replace("midlayer.", "layers.0."): tensor for name, tensor in own.items()}
    foreign |= {"embed_tokens.weight": target.embedding.weight.detach().clone()}
    foreign |= {"d2t": torch.zeros(size, dtype=torch.int64), "t2d": torch.ones(size, dtype=torch.bool)}
    save_file(foreign, ours / "model.safetensors")
    edit(ours, paradraft=None, eagle_config=None)
    with pytest.raises(UserError, match="--target is needed here"):
        import_checkpoint(str(ours), tmp_path / "out")
    import_checkpoint(str(ours), tmp_path / "out", str(target_directory))
    compare(own, load_file(tmp_path / "out" / "model.safetensors"), tmp_path)
    assert load_drafter(tmp_path / "out", target).max_draft == 7
    foreign["embed_tokens.weight"][0] += 1
    save_file(foreign, ours / "model.safetensors")
    with pytest.raises(UserError, match="not that of target"):
        import_checkpoint(str(ours), tmp_path / "b", str(target_directory))
    del foreign["embed_tokens.weight"], foreign["d2t"], foreign["t2d"]
    foreign["lm_head.weight"] = foreign["lm_head.weight"][:5].clone()
    save_file(foreign, ours / "model.safetensors")
    with pytest.raises(UserError, match="no d2t"):
        import_checkpoint(str(ours), tmp_path / "b", str(target_directory))


def test_what_a_configuration_says_of_its_layers() -> None:
    own, notes = understood(FOREIGN, ())
    assert not notes and own["head_dim"] == 8 and own["dtype"] == "float16"
    assert own["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 4]
    assert understood(own, ()) == (own, [])
    inner = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 4]}}
    assert understood(FOREIGN | inner, ())[0] == own
    alone = {**FOREIGN, "eagle_aux_hidden_state_layer_ids": None, **inner}
    with pytest.raises(UserError, match="--assume layer-outputs"):
        understood(alone, ())
    assert understood(alone, ("layer-outputs",))[0] == own
    with pytest.raises(UserError, match="does not name its feature layers"):
        understood({**FOREIGN, "eagle_aux_hidden_state_layer_ids": None}, ())


def test_unnamed_layers_are_the_authors(target: Target, target_directory: Path, tmp_path: Path) -> None:
    ours = saved("eagle3", target, tmp_path / "ours")
    edit(ours, eagle_config=None, eagle_aux_hidden_state_layer_ids=None)
    done = import_checkpoint(str(ours), tmp_path / "out", str(target_directory))
    assert "hidden states [1, 2]" in done.notes[0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_hidden_layers": 2}, "num_hidden_layers 2"),
        ({"norm_before_fc": True}, "norm_before_fc True"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"target_hidden_size": 64}, "32 wide and its target 64"),
        ({"eagle_aux_hidden_state_layer_ids": [5, 2]}, "must ascend"),
        ({"eagle_aux_hidden_state_layer_ids": [0, 2]}, "must ascend from 1"),
        ({"eagle_aux_hidden_state_layer_ids": "2"}, "must be a list"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 5]}}, "twice"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "'llama3'"),
        ({"hidden_size": None}, "lacks hidden_size"),
    ],
)
def test_planted_differences_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        understood(FOREIGN | changes, ("layer-outputs",))
