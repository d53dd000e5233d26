"""Out to every format and back without a bit changed; nothing half-written; draft logits equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from paradraft.drafters import DRAFTERS, Pard, Pard2, load_drafter
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.errors import UserError
from paradraft.interchange import LAYOUTS
from paradraft.interchange.drafter_files import compare
from paradraft.interchange.exchange import export, import_checkpoint
from paradraft.models import Target
from tests.conftest import drafter_values, make_drafter_of, make_model


@pytest.fixture
def target(target_directory: Path) -> Target:
    return Target.load(str(target_directory))


def saved(kind: str, target: Target, directory: Path) -> Path:
    make_drafter_of(kind, target).save_pretrained(directory)
    return directory


def reduce(directory: Path, ids: list[int], vocabulary: int) -> None:
    """Give a saved drafter a reduced draft vocabulary, as our own directories have it."""
    tensors = load_file(directory / "model.safetensors")
    inside = torch.zeros(vocabulary, dtype=torch.bool)
    inside[ids] = True
    tensors |= {"d2t": torch.tensor(ids) - torch.arange(len(ids)), "t2d": inside}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    edit(directory, draft_vocab_size=len(ids))


def edit(directory: Path, **changes: Any) -> None:
    """Change config.json; None takes a key away."""
    config = json.loads((directory / "config.json").read_text()) | changes
    config = {name: value for name, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))


def config_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


WAYS: list[tuple[str, dict[str, Any]]] = [*((kind, {}) for kind in LAYOUTS), ("dflash", {"causal": True})]
WAYS += [("dspark", {"markov_head": "rnn", "confidence_head": False})]


@pytest.mark.parametrize(("kind", "own"), WAYS)
def test_published_and_back(
    kind: str, own: dict[str, Any], target: Target, target_directory: Path, tmp_path: Path
) -> None:
    drafter = make_drafter_of(kind, target, **own)
    drafter.save_pretrained(tmp_path / "ours")
    done = export(str(tmp_path / "ours"), "published", tmp_path / "published", str(target_directory))
    assert done.kind == kind and done.compared.endswith("tensors and draft logits")
    assert (tmp_path / "published" / "warp_model.bin").is_file() == (kind == "pard2")
    assert not (tmp_path / "published" / "pard2").exists()
    again_target = str(target_directory) if kind == "dspark" else None  # whose files hold the target's own head
    assert import_checkpoint(str(tmp_path / "published"), tmp_path / "again", again_target).kind == kind
    again = load_drafter(tmp_path / "again", target)
    assert again.feature_layers == drafter.feature_layers and again.max_draft == drafter.max_draft
    for name, tensor in drafter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    if isinstance(again, Pard2):
        assert not (tmp_path / "again" / "warp_model.bin").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "ours", "published"]


def test_a_kind_without_another_layout_stays_as_it_is(target: Target, tmp_path: Path) -> None:
    ours = str(saved("dflash2_tied", target, tmp_path / "ours"))
    with pytest.raises(UserError, match="no other layout for drafters of kind dflash2_tied; use the directory as it"):
        export(ours, "vllm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ids", [None, [2, 5, 11]])
def test_dspark_for_vllm(ids: list[int] | None, target: Target, target_directory: Path, tmp_path: Path) -> None:
    drafter = make_drafter_of("dspark", target, cut=0.25)
    if ids is not None:
        drafter.restrict(DraftVocabulary(torch.tensor(ids), target.vocabulary_size))
    drafter.save_pretrained(tmp_path / "ours")
    done = export(str(tmp_path / "ours"), "vllm", tmp_path / "out", str(target_directory))
    assert done.compared.endswith("draft logits")
    where = json.dumps(str(tmp_path / "out"))
    assert f'"method": "dspark", "model": {where}, "num_speculative_tokens": 5' in done.notes[-1]
    tensors, config = load_file(tmp_path / "out" / "model.safetensors"), config_of(tmp_path / "out")
    assert config["sample_from_anchor"] is True and "dflash_config" not in config
    assert ("lm_head.weight" in tensors) == (ids is not None) and "embed_tokens.weight" not in tensors
    if ids is not None:
        assert torch.equal(tensors["lm_head.weight"], target.output_embedding.weight[ids])  # type: ignore[index]
        assert tensors["markov_head.markov_w2.weight"].shape == (3, 8) and config["draft_vocab_size"] == 3
    import_checkpoint(str(tmp_path / "out"), tmp_path / "again", str(target_directory))
    compare(*(load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again")), tmp_path)
    make_drafter_of("dspark", target, markov_head="gated").save_pretrained(tmp_path / "gated")
    with pytest.raises(UserError, match="vanilla Markov head only"):
        export(str(tmp_path / "gated"), "vllm", tmp_path / "b", str(target_directory))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sample_from_anchor": False}, "slot 0 of a block drafts nothing"),
        ({"markov_rank": 0}, "no Markov head"),
        ({"layer_types": ["sliding_attention"] * 2}, "sliding-window"),
        ({"markov_head_type": None}, "lacks markov_head_type"),
        ({"target_layer_ids": [2, 0]}, "not ascending"),
    ],
)
def test_foreign_dspark_that_is_something_else(
    changes: dict[str, Any], complaint: str, target: Target, tmp_path: Path
) -> None:
    edit(saved("dspark", target, tmp_path / "ours"), **changes)
    with pytest.raises(UserError, match=complaint):
        import_checkpoint(str(tmp_path / "ours"), tmp_path / "out")


def test_dflash2_needs_the_whole_vocabulary_and_full_attention(target: Target, tmp_path: Path) -> None:
    ours = saved("dflash2", target, tmp_path / "ours")
    for changes, complaint in (({"is_causal": True}, "causal"), ({"layer_types": ["sliding_attention"]}, "sliding")):
        edit(saved("dflash2", target, tmp_path / complaint), **changes)
        with pytest.raises(UserError, match=complaint):
            import_checkpoint(str(tmp_path / complaint), tmp_path / "out")
    reduce(ours, [2, 5, 11], target.vocabulary_size)
    for to in ("vllm", "sglang", "published"):
        with pytest.raises(UserError, match="works in paradraft only"):
            export(str(ours), to, tmp_path / "out")


def test_causal_blocks_go_where_they_are_understood(target: Target, target_directory: Path, tmp_path: Path) -> None:
    make_drafter_of("dflash", target, causal=True).save_pretrained(tmp_path / "ours")
    for to in ("gguf", "transformers", "speculators"):
        with pytest.raises(UserError, match="causal"):
            export(str(tmp_path / "ours"), to, tmp_path / "out", str(target_directory))
    export(str(tmp_path / "ours"), "vllm", tmp_path / "out", str(target_directory))
    assert config_of(tmp_path / "out")["dflash_config"]["causal"] is True


def test_the_directory_for_vllm(target: Target, target_directory: Path, tmp_path: Path) -> None:
    ours = saved("dflash", target, tmp_path / "ours")
    edit(ours, stray=1, mask_token_id=3)
    done = export(str(ours), "vllm", tmp_path / "out", str(target_directory))
    config = config_of(tmp_path / "out")
    assert "stray" not in config and "mask_token_id" not in config
    assert config["is_causal"] is False and config["sample_from_anchor"] is False
    assert config["dflash_config"] | {"causal": False, "sample_from_anchor": False} == config["dflash_config"]
    assert config["layer_types"] == ["full_attention"] * 2
    where = json.dumps(str(tmp_path / "out"))
    assert f'"method": "dflash", "model": {where}, "num_speculative_tokens": 5' in done.notes[-1]


@pytest.mark.parametrize("kind", ["pard", "pard2"])
def test_a_language_model_for_vllm(kind: str, target: Target, target_directory: Path, tmp_path: Path) -> None:
    ours = saved(kind, target, tmp_path / "ours")
    edit(ours, mask_token_id=1, spd_type="pard2")
    done = export(str(ours), "vllm", tmp_path / "out", str(target_directory))
    config = config_of(tmp_path / "out")
    assert config["pard_token"] == target.vocabulary_size - 1
    assert not {"mask_token_id", "spd_type", "pard2", "pard2_scale"} & config.keys()
    assert (tmp_path / "out" / "tokenizer.json").is_file() and not (tmp_path / "out" / "pard2").exists()
    assert ("the projection" in " ".join(done.notes)) == (kind == "pard2")
    assert done.compared.endswith("draft logits")


def test_sglang_gets_what_it_can_read(target: Target, target_directory: Path, tmp_path: Path) -> None:
    ours = saved("dflash", target, tmp_path / "ours")
    export(str(ours), "sglang", tmp_path / "out", str(target_directory))
    assert config_of(tmp_path / "out")["architectures"] == ["DFlashDraftModel"]
    reduce(ours, [1, 3], target.vocabulary_size)
    with pytest.raises(UserError, match="reduced draft vocabulary does not work there"):
        export(str(ours), "sglang", tmp_path / "b")
    with pytest.raises(UserError, match="does not draft in parallel"):
        export(str(saved("pard", target, tmp_path / "pard")), "sglang", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_speculators_there_and_back(target: Target, target_directory: Path, tmp_path: Path) -> None:
    ours = saved("dflash", target, tmp_path / "ours")
    done = export(str(ours), "speculators", tmp_path / "out", str(target_directory))
    assert done.compared.endswith("draft logits")
    config = config_of(tmp_path / "out")
    own = config_of(ours)
    assert config["aux_hidden_state_layer_ids"] == [i + 1 for i in own["dflash_config"]["target_layer_ids"]]
    assert config["speculators_config"]["verifier"]["name_or_path"] == str(target_directory)
    assert config["sliding_window_non_causal"] is True and config["sample_from_anchor"] is False
    assert config["draft_vocab_size"] == target.vocabulary_size and "model_type" not in config
    import_checkpoint(str(tmp_path / "out"), tmp_path / "again", str(target_directory))
    compare(load_file(ours / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors"), tmp_path)
    assert (
        config_of(tmp_path / "again")["dflash_config"]["target_layer_ids"] == own["dflash_config"]["target_layer_ids"]
    )
    with pytest.raises(UserError, match="--target is needed here"):
        import_checkpoint(str(tmp_path / "out"), tmp_path / "b")
    edit(tmp_path / "out", block_size=None)
    with pytest.raises(UserError, match="lacks block_size"):
        import_checkpoint(str(tmp_path / "out"), tmp_path / "b", str(target_directory))


@pytest.mark.parametrize("to", ["vllm", "speculators"])
def test_a_reduced_vocabulary_is_written_with_its_head(
    to: str, target: Target, target_directory: Path, tmp_path: Path
) -> None:
    ours, ids = saved("dflash", target, tmp_path / "ours"), [2, 5, 11]
    reduce(ours, ids, target.vocabulary_size)
    with pytest.raises(UserError, match="--target is needed here"):
        export(str(ours), to, tmp_path / "out")
    done = export(str(ours), to, tmp_path / "out", str(target_directory))
    assert done.compared.endswith("draft logits")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert (tensors["d2t"] + torch.arange(3)).tolist() == ids and tensors["d2t"].dtype == torch.int64
    head = target.model.get_output_embeddings().weight
    assert torch.equal(tensors["lm_head.weight"], head[ids])
    assert config_of(tmp_path / "out")["draft_vocab_size"] == 3
    if to == "speculators":
        import_checkpoint(str(tmp_path / "out"), tmp_path / "again", str(target_directory))
        compare(load_file(ours / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors"), tmp_path)
        tensors["lm_head.weight"][0] += 1
        save_file(tensors, tmp_path / "out" / "model.safetensors")
        with pytest.raises(UserError, match=r"its lm_head.weight is not that of target"):
            import_checkpoint(str(tmp_path / "out"), tmp_path / "b", str(target_directory))


@pytest.mark.parametrize("to", ["gguf", "transformers", "vllm"])
def test_an_export_for_another_target_is_refused(to: str, target_directory: Path, tmp_path: Path) -> None:
    """Also in the formats that are not read again."""
    other = Target(make_model("qwen3", hidden_size=48))
    make_drafter_of("dflash", other).save_pretrained(tmp_path / "drafter")
    with pytest.raises(UserError, match="hidden size 48"):
        export(str(tmp_path / "drafter"), to, tmp_path / "out", str(target_directory))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "tied", "family"),
    [
        *(("pard", True, "qwen3"), ("pard2", True, "qwen3"), ("vanilla", True, "qwen3"), ("pard", False, "qwen3")),
        *(("pard", True, "gemma"), ("pard2", True, "gemma3")),  # which scale what they read of the embedding
    ],
)
def test_a_shared_embedding_is_written_whole(kind: str, tied: bool, family: str, tmp_path: Path) -> None:
    """With the mask's own row in it; a reduced vocabulary becomes the whole one."""
    make_model(family, tie_word_embeddings=tied).save_pretrained(tmp_path / "target")
    target = Target.load(str(tmp_path / "target"))
    values = drafter_values(kind, init_from="target", layers=2, share_embedding=True, mask_token=39)
    section = DRAFTERS[kind].section.model_validate(values)
    drafter = DRAFTERS[kind].create(section, target)
    if isinstance(drafter, Pard):
        assert drafter.mask_embedding is not None
        torch.nn.init.normal_(drafter.mask_embedding)
    drafter.restrict(DraftVocabulary(torch.tensor([1, 4, 9, 30]), target.vocabulary_size))
    drafter.save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match="one of paradraft's own directories"):
        import_checkpoint(str(tmp_path / "ours"), tmp_path / "out")
    with pytest.raises(UserError, match="shares the target's embedding"):
        export(str(tmp_path / "ours"), "vllm", tmp_path / "out")
    done = export(str(tmp_path / "ours"), "vllm", tmp_path / "out", str(tmp_path / "target"))
    assert done.compared.endswith("draft logits") and "drafts from all of them" in done.notes[0]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    embedding = target.embedding.weight.clone()
    if isinstance(drafter, Pard) and drafter.mask_embedding is not None:
        embedding[39] = drafter.mask_embedding.detach()
    assert torch.equal(tensors["model.embed_tokens.weight"], embedding)
    assert ("lm_head.weight" in tensors) == (kind != "vanilla" or not tied)
    assert "share_embedding" not in config_of(tmp_path / "out")["paradraft"]
    Target.load(str(tmp_path / "out"))  # Transformers finds every weight


def test_what_cannot_be_imported_leaves_nothing_behind(target: Target, tmp_path: Path) -> None:
    ours = saved("pard2", target, tmp_path / "ours")
    export(str(ours), "published", tmp_path / "published")
    with pytest.raises(UserError, match="exists already"):
        import_checkpoint(str(tmp_path / "published"), ours)
    (tmp_path / "published" / "warp_model.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="projection cannot be read"):
        import_checkpoint(str(tmp_path / "published"), tmp_path / "out")
    (tmp_path / "published" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\*\.safetensors"):
        import_checkpoint(str(tmp_path / "published"), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "published"]


def test_an_altered_export_is_caught(
    target: Target, target_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that turns a number the wrong way leaves tensors alone: only the logits tell."""
    ours = saved("dflash", target, tmp_path / "ours")
    honest = LAYOUTS["dflash"].write["vllm"]

    def wrong(source: Any, out: Path, side: Any) -> list[str]:
        notes = honest(source, out, side)
        edit(out, rms_norm_eps=0.1)
        return notes

    monkeypatch.setitem(LAYOUTS["dflash"].write, "vllm", wrong)
    with pytest.raises(UserError, match="drafts differently"):
        export(str(ours), "vllm", tmp_path / "out", str(target_directory))
    assert not (tmp_path / "out").exists()


def test_what_reads_back_differently_is_refused(tmp_path: Path) -> None:
    tensor = torch.ones(2)
    compare({"a": tensor}, {"a": tensor.clone()}, tmp_path)
    for read in ({}, {"a": tensor.half()}, {"a": tensor + 1}, {"a": tensor[:1]}, {"a": tensor, "b": tensor}):
        with pytest.raises(UserError, match="differs from what was written"):
            compare({"a": tensor}, read, tmp_path)


def test_a_confidence_head_without_a_bias(target: Target, tmp_path: Path) -> None:
    ours = saved("dspark", target, tmp_path / "ours")
    tensors = load_file(ours / "model.safetensors")
    tensors.pop("confidence_head.proj.bias")
    save_file(tensors, ours / "model.safetensors", metadata={"format": "pt"})
    import_checkpoint(str(ours), tmp_path / "again")
    again: Any = load_drafter(tmp_path / "again", target)
    assert again.confidence_head.proj.bias.tolist() == [0]


def test_an_unknown_model_is_named(target: Target, tmp_path: Path) -> None:
    edit(saved("vanilla", target, tmp_path / "ours"), model_type="warp")
    with pytest.raises(UserError, match="warp"):
        import_checkpoint(str(tmp_path / "ours"), tmp_path / "out")
