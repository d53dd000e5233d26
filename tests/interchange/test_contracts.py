"""Each engine's contract, against drafters that it reads and drafters that it must not be told to read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paradraft.errors import UserError
from paradraft.interchange import LAYOUTS
from paradraft.interchange.contracts import CONTRACTS, facts_of, verdicts
from paradraft.interchange.exchange import FORMATS
from paradraft.interchange.layout import Facts, Use
from paradraft.interchange.served import speculative_options
from paradraft.models import Target
from tests.conftest import KINDS
from tests.interchange.test_exchange import saved, target

__all__ = ["target"]

TARGET = {"hidden_size": 32, "vocab_size": 40, "num_hidden_layers": 10}
DFLASH = Facts(
    "dflash",
    {
        **{"hidden_size": 32, "vocab_size": 40, "num_target_layers": 10, "num_hidden_layers": 2, "block_size": 8},
        "dflash_config": {"mask_token_id": 3, "target_layer_ids": [1, 4, 7]},
    },
    frozenset({"fc.weight"}),
    TARGET,
)
PARD = Facts("pard", {"vocab_size": 40, "pard_token": 39}, frozenset({"model.embed_tokens.weight"}), TARGET)


def read_by(facts: Facts) -> dict[str, bool]:
    return {found.engine.split()[0]: found.reads for found in verdicts(facts)}


def why(facts: Facts, engine: str) -> str:
    (found,) = (found for found in verdicts(facts) if found.engine.startswith(engine))
    return f"{found.why} | {found.how} | {found.checked}"


def configured(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, config={**facts.config, **changes})


def test_a_plain_dflash_drafter_is_read_everywhere() -> None:
    assert read_by(DFLASH) == dict.fromkeys(["paradraft", "vLLM", "SGLang", "llama.cpp", "Transformers"], True)
    assert DFLASH.length == 7
    assert "key norm" in why(DFLASH, "vLLM") and "key norm" not in why(configured(DFLASH, num_hidden_layers=1), "vLLM")
    assert "--to gguf | read only" in why(DFLASH, "llama") and "--to transformers | run" in why(DFLASH, "Transformers")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_size": 64}, "made for a target with hidden_size 64; this one has 32"),
        ({"num_target_layers": 12}, "made for a target with num_target_layers 12"),
        ({"dflash_config": {"mask_token_id": 40, "target_layer_ids": [1]}}, "mask token 40 lies outside"),
    ],
)
def test_what_nobody_reads(change: dict[str, Any], expected: str) -> None:
    facts = configured(DFLASH, **change)
    assert not any(read_by(facts).values())
    assert all(expected in found.why for found in verdicts(facts))


def test_the_targets_last_layer() -> None:
    facts = configured(DFLASH, dflash_config={"mask_token_id": 3, "target_layer_ids": [1, 9]})
    assert "after the final norm" in why(facts, "Transformers") and not read_by(facts)["Transformers"]
    assert "was not checked" in why(facts, "llama") and read_by(facts)["vLLM"]


def test_a_target_that_scales_its_embeddings() -> None:
    gemma = {**TARGET, "model_type": "gemma3_text"}
    read = read_by(replace(DFLASH, target=gemma))
    assert not read["vLLM"] and not read["llama.cpp"] and read["paradraft"] and read["Transformers"]
    assert "square root of its width" in why(replace(DFLASH, target=gemma), "vLLM")
    assert read_by(replace(DFLASH, target={**TARGET, "model_type": "qwen3"}))["vLLM"]
    assert read_by(replace(PARD, target=gemma)) == read_by(PARD)


def test_a_reduced_vocabulary() -> None:
    facts = replace(DFLASH, tensors=frozenset({"fc.weight", "d2t", "t2d"}))
    assert read_by(facts) == {
        "paradraft": True,
        "vLLM": True,
        "SGLang": False,
        "llama.cpp": True,
        "Transformers": False,
    }
    assert "--to speculators" in why(facts, "vLLM")


def test_language_models() -> None:
    assert read_by(PARD) == {
        "paradraft": True,
        "vLLM": True,
        "SGLang": False,
        "llama.cpp": False,
        "Transformers": False,
    }
    assert "the directory as it is" in why(PARD, "vLLM")
    assert "--to vllm" in why(configured(PARD, paradraft={"share_embedding": True}), "vLLM")
    assert "whole vocabulary" in why(replace(PARD, tensors=PARD.tensors | {"d2t"}), "vLLM")
    assert "wants them equal" in why(configured(PARD, vocab_size=41), "vLLM")
    assert not read_by(configured(PARD, vocab_size=39))["paradraft"]
    assert "projection is ignored" in why(replace(PARD, kind="pard2"), "vLLM")
    vanilla = replace(PARD, kind="vanilla", config={"vocab_size": 40})
    assert all(read_by(vanilla).values()) and "convert_hf_to_gguf.py" in why(vanilla, "llama")


def test_a_directory_without_an_embedding_is_exported_for_every_engine() -> None:
    vanilla = replace(PARD, kind="vanilla", config={"vocab_size": 40}, tensors=frozenset({"model.norm.weight", "d2t"}))
    own = {"vLLM": "vllm", "SGLang": "sglang", "llama.cpp": "vllm", "Transformers": "published"}
    shared = configured(vanilla, paradraft={"share_embedding": True})
    for engine, to in own.items():
        assert f"export --to {to}" in why(shared, engine) and "whole vocabulary" in why(shared, engine)
    for engine in ("vLLM", "SGLang", "Transformers"):
        assert "the directory as it is" in why(vanilla, engine)
    assert "the directory as it is" in why(shared, "paradraft")


def test_sglang_prefers_the_tokenizers_mask() -> None:
    assert "which SGLang would use" in why(replace(DFLASH, mask_of_target=5), "SGLang")
    assert read_by(replace(DFLASH, mask_of_target=3))["SGLang"]


def test_causal_blocks() -> None:
    found = {"paradraft": True, "vLLM": True, "SGLang": True, "llama.cpp": False, "Transformers": False}
    assert read_by(configured(DFLASH, is_causal=True)) == found


@pytest.mark.parametrize("kind", ["dflash", "dflash2", "dspark"])
def test_the_block_size_may_stand_inside(kind: str) -> None:
    inside = Facts(kind, {"dflash_config": {"block_size": 8}}, frozenset(), TARGET)
    assert inside.length == (8 if kind == "dspark" else 7)
    with pytest.raises(UserError, match="lacks block_size"):
        _ = Facts(kind, {}, frozenset(), TARGET).length


def test_dflash2() -> None:
    facts = replace(DFLASH, kind="dflash2")
    found = {"paradraft": True, "vLLM": True, "SGLang": True, "llama.cpp": False, "Transformers": False}
    assert read_by(facts) == found and facts.length == 7 and "GPU only" in why(facts, "vLLM")
    reduced = read_by(replace(facts, tensors=frozenset({"d2t"})))
    assert reduced["paradraft"] and not reduced["vLLM"] and not reduced["SGLang"]


def test_dspark() -> None:
    own = {"hidden_size": 32, "vocab_size": 40, "num_target_layers": 10, "block_size": 7, "mask_token_id": 3}
    facts = Facts("dspark", {**own, "markov_head_type": "vanilla"}, frozenset({"fc.weight"}), TARGET)
    found = {"paradraft": True, "vLLM": True, "SGLang": False, "llama.cpp": False, "Transformers": False}
    assert read_by(facts) == found and facts.length == 7 and "GPU only" in why(facts, "vLLM")
    assert "--to vllm" in why(replace(facts, tensors=facts.tensors | {"d2t"}), "vLLM")
    assert "this one is rnn" in why(configured(facts, markov_head_type="rnn"), "vLLM")
    assert "mask token 40 lies outside" in why(configured(facts, mask_token_id=40), "paradraft")


EAGLE = Facts(
    "eagle3", {"hidden_size": 32, "vocab_size": 40, "num_hidden_layers": 1}, frozenset({"fc.weight", "d2t"}), TARGET
)


def test_eagle3() -> None:
    found = {"paradraft": True, "vLLM": True, "SGLang": True, "llama.cpp": False, "Transformers": False}
    assert read_by(EAGLE) == found and EAGLE.length == 7
    assert "the directory as it is" in why(EAGLE, "vLLM") and "whole vocabulary" not in why(EAGLE, "vLLM")
    assert "made for a target with hidden_size 64" in why(configured(EAGLE, hidden_size=64), "vLLM")
    assert "made for a target with vocab_size 41" in why(configured(EAGLE, vocab_size=41), "paradraft")


@pytest.mark.parametrize("kind", KINDS)
def test_facts_of_a_saved_drafter(kind: str, target: Target, target_directory: Path, tmp_path: Path) -> None:
    facts = facts_of(str(saved(kind, target, tmp_path / "ours")), str(target_directory))
    assert (facts.kind, facts.length, facts.reduced, facts.shared) == (kind, 5, False, False)
    assert read_by(facts)["paradraft"] and read_by(facts)["vLLM"] == (kind != "dflash2_tied")


def test_only_our_own_kind_has_no_layout() -> None:
    assert {*KINDS} - {*LAYOUTS} == {"dflash2_tied"}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_layout_says_something_of_every_engine(kind: str) -> None:
    """And names no format that the kind is not written in."""
    layout = LAYOUTS[kind]
    assert layout.engines.keys() | {"paradraft"} == CONTRACTS.keys() and layout.write.keys() <= {*FORMATS}
    for use in layout.engines.values():
        assert isinstance(use, str) or not use.to or callable(layout.write[use.to])
    assert isinstance(layout.engines["vllm"], Use) == bool(layout.vllm)
    assert isinstance(layout.engines["sglang"], Use) == bool(layout.sglang)


def test_sglangs_algorithms() -> None:
    """As its server names them; what drafts whole blocks is not told how many steps to take."""
    found = {kind: speculative_options(kind, "D", 5) for kind, layout in LAYOUTS.items() if layout.sglang}
    algorithms = {"dflash": "DFLASH", "dflash2": "DFLASH", "eagle3": "EAGLE3", "vanilla": "STANDALONE"}
    assert {kind: options[1] for kind, options in found.items()} == algorithms
    assert [kind for kind, options in found.items() if len(options) == 4] == ["dflash", "dflash2"]
