"""The GGUF file against its readers' contracts: layers count one more, d2t holds the target's ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from paradraft.drafters import Eagle3
from paradraft.drafters.layers import rotation_at
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.errors import UserError
from paradraft.interchange.dflash_layout import GGUF_NAMES as DFLASH
from paradraft.interchange.exchange import export
from paradraft.interchange.gguf import check_file, gguf_name, pre_tokenizer
from paradraft.models import Target
from tests.conftest import make_drafter_of, make_model
from tests.interchange.test_exchange import edit, reduce, saved, target
from tests.models.tiny_gguf import write_gguf

__all__ = ["target"]


def field(reader: GGUFReader, name: str) -> object:
    found = reader.get_field(name)
    return None if found is None else found.contents()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_llama_cpp_finds(dtype: torch.dtype, target: Target, target_directory: Path, tmp_path: Path) -> None:
    ours = saved("dflash", target, tmp_path / "ours")
    stored = {name: tensor.to(dtype) for name, tensor in load_file(ours / "model.safetensors").items()}
    save_file(stored, ours / "model.safetensors")
    done = export(str(ours), "gguf", tmp_path / "out", str(target_directory))
    assert "out/drafter.gguf --spec-type draft-dflash --spec-draft-n-max 5" in done.notes[-1]
    reader = GGUFReader(tmp_path / "out" / "drafter.gguf")
    expected = {
        "general.architecture": "dflash",
        "dflash.block_count": 2,
        "dflash.embedding_length": 32,
        "dflash.attention.key_length": 8,
        "dflash.attention.causal": False,
        "dflash.block_size": 6,
        "dflash.sample_from_anchor": False,
        "dflash.target_layers": [2],  # layer 1's output is layer 2's input
        "tokenizer.ggml.model": "gpt2",
    }
    assert {name: field(reader, name) for name in expected} == expected
    mask = field(reader, "tokenizer.ggml.mask_token_id")
    tokens = field(reader, "tokenizer.ggml.tokens")
    assert isinstance(tokens, list) and len(tokens) == target.vocabulary_size
    assert target.tokenizer is not None and isinstance(mask, int)
    assert tokens[5] == target.tokenizer.convert_ids_to_tokens(5)
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert len(found) == 2 * 11 + 3
    for name, tensor in stored.items():
        read = torch.from_numpy(
            dequantize(found[gguf_name(name, DFLASH)].data, found[gguf_name(name, DFLASH)].tensor_type).copy()
        )
        assert torch.equal(read.view(tensor.shape), tensor.float()), name
        assert found[gguf_name(name, DFLASH)].tensor_type.name == ("F32" if tensor.ndim == 1 else str_of(dtype))


def str_of(dtype: torch.dtype) -> str:
    return {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]


def test_a_reduced_vocabulary_holds_the_targets_ids(target: Target, target_directory: Path, tmp_path: Path) -> None:
    ours, ids = saved("dflash", target, tmp_path / "ours"), [2, 5, 11]
    reduce(ours, ids, target.vocabulary_size)
    export(str(ours), "gguf", tmp_path / "out", str(target_directory))
    found = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "out" / "drafter.gguf").tensors}
    assert found["d2t"].data.tolist() == ids and found["d2t"].tensor_type.name == "I64"
    head = target.model.get_output_embeddings().weight[ids]
    assert torch.equal(torch.from_numpy(found["output.weight"].data.copy()), head)


@pytest.mark.parametrize("reduced", [False, True])
def test_eagle3(reduced: bool, deep: Path, tmp_path: Path) -> None:
    target = Target.load(str(deep))
    drafter = eagle3(target)
    if reduced:
        drafter.restrict(DraftVocabulary(torch.tensor([2, 5, 11]), target.vocabulary_size))
    drafter.save_pretrained(tmp_path / "ours")
    done = export(str(tmp_path / "ours"), "gguf", tmp_path / "out", str(deep))
    length = drafter.config.draft_length
    assert f"out/drafter.gguf --spec-type draft-eagle3 --spec-draft-n-max {length}" in done.notes[-1]
    reader = GGUFReader(tmp_path / "out" / "drafter.gguf")
    layers = [i + 1 for i in drafter.config.feature_layers]  # a layer's output is the next one's input
    expected = {
        "general.architecture": "eagle3",
        "eagle3.block_count": 1,
        "eagle3.target_layers": layers,
        "eagle3.extract_layers": layers,
        "eagle3.target_hidden_size": target.hidden_size,
        "eagle3.norm_before_residual": False,
        "eagle3.norm_before_fc": False,
        "eagle3.rope.dimension_count": drafter.config.head_dim,
    }
    assert {name: field(reader, name) for name in expected} == expected
    found = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    own = {name: tensor.detach() for name, tensor in drafter.state_dict().items()}
    vectors = {"output_norm": "norm", "blk.0.attn_norm": "midlayer.input_layernorm"}
    vectors |= {"blk.0.attn_norm_2": "midlayer.hidden_norm", "blk.0.ffn_norm": "midlayer.post_attention_layernorm"}
    same = vectors | {"fc": "fc", "output": "lm_head", "blk.0.attn_v": "midlayer.self_attn.v_proj"}
    same |= {"blk.0.attn_output": "midlayer.self_attn.o_proj", "blk.0.ffn_down": "midlayer.mlp.down_proj"}
    for theirs, ours in same.items():
        assert torch.equal(found[theirs + ".weight"], own[ours + ".weight"]), theirs
    assert found["d2t"].tolist() == [2, 5, 11] if reduced else "d2t" not in found
    assert len(found) == 13 + reduced


def test_eagle3_attends_as_here_when_neighbours_rotate(deep: Path, tmp_path: Path) -> None:
    """Scores of queries and keys by llama.cpp's rotation, of rows 2i and 2i + 1, with the weights of the file."""
    drafter = eagle3(Target.load(str(deep)))
    drafter.save_pretrained(tmp_path / "ours")
    export(str(tmp_path / "ours"), "gguf", tmp_path / "out", str(deep))
    found = {t.name: torch.from_numpy(t.data.copy()) for t in GGUFReader(tmp_path / "out" / "drafter.gguf").tensors}
    own, config = drafter.state_dict(), drafter.config
    seen, positions = torch.randn(6, 2 * config.hidden_size), torch.arange(6)[None]
    cos, sin = (turn[0, 0] for turn in rotation_at(positions, config.head_dim, config.rope_theta, torch.float32))
    scores = {}
    for way in ("halves", "neighbours"):
        rotated = []
        for part, ours, heads in (("attn_q", "q_proj", config.heads), ("attn_k", "k_proj", config.key_value_heads)):
            name = f"blk.0.{part}.weight"
            weight = found[name] if way == "neighbours" else own[f"midlayer.self_attn.{ours}.weight"]
            x = (seen @ weight.T).view(6, heads, config.head_dim).transpose(0, 1)
            if way == "halves":
                rotated.append(x * cos + torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), -1) * sin)
            else:
                c, s = cos[..., : config.head_dim // 2], sin[..., : config.head_dim // 2]
                even, odd = x[..., 0::2], x[..., 1::2]
                rotated.append(torch.cat((even * c - odd * s, even * s + odd * c), -1))
        queries, keys = rotated
        scores[way] = queries @ keys.repeat_interleave(config.heads // config.key_value_heads, 0).transpose(-1, -2)
    torch.testing.assert_close(scores["neighbours"], scores["halves"], rtol=1e-4, atol=1e-5)


def test_eagle3_of_other_layers_is_refused(target: Target, target_directory: Path, tmp_path: Path) -> None:
    make_drafter_of("eagle3", target).save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match="reads 3 layers of the target; this drafter reads"):
        export(str(tmp_path / "ours"), "gguf", tmp_path / "out", str(target_directory))


def eagle3(target: Target) -> Eagle3:
    """Of three layers, as llama.cpp wants it."""
    drafter = make_drafter_of("eagle3", target, feature_layers=[0, 1, 2])
    assert isinstance(drafter, Eagle3)
    return drafter


@pytest.fixture
def deep(target_directory: Path, tmp_path: Path) -> Path:
    """A target of five layers."""
    tokenizer = AutoTokenizer.from_pretrained(target_directory)
    make_model("qwen3", vocab_size=len(tokenizer) + 8, num_hidden_layers=5).save_pretrained(tmp_path / "deep")
    tokenizer.save_pretrained(tmp_path / "deep")
    return tmp_path / "deep"


def test_a_gguf_targets_tokenizer_is_copied(tmp_path: Path) -> None:
    _, tokenizer = write_gguf(tmp_path / "target.gguf", split="smollm")
    target = Target.load(str(tmp_path / "target.gguf"))
    make_drafter_of("dflash", target).save_pretrained(tmp_path / "ours")
    export(str(tmp_path / "ours"), "gguf", tmp_path / "out", str(tmp_path / "target.gguf"))
    reader = GGUFReader(tmp_path / "out" / "drafter.gguf")
    assert field(reader, "tokenizer.ggml.pre") == "smollm"
    assert field(reader, "tokenizer.ggml.tokens") == sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)


def test_what_has_no_gguf_is_refused(target: Target, target_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"llama\.cpp has no pard drafter"):
        export(str(saved("pard", target, tmp_path / "pard")), "gguf", tmp_path / "out", str(target_directory))
    ours = saved("dflash", target, tmp_path / "ours")
    with pytest.raises(UserError, match="carries the target's tokenizer"):
        export(str(ours), "gguf", tmp_path / "out")
    edit(ours, block_size=9)
    export(str(ours), "gguf", tmp_path / "out", str(target_directory))
    with pytest.raises(UserError, match=r"dflash.block_size read back differs"):
        check_file(tmp_path / "out" / "drafter.gguf", {"dflash.block_size": 8}, {})
    with pytest.raises(UserError, match="which was not written"):
        check_file(tmp_path / "out" / "drafter.gguf", {}, {})


def test_pre_tokenizers_that_llama_cpp_knows() -> None:
    level = {"type": "ByteLevel"}
    assert pre_tokenizer(level) == ("gpt-2", True)
    digits = {"type": "Digits", "individual_digits": True}
    assert pre_tokenizer({"type": "Sequence", "pretokenizers": [digits, level]}) == ("smollm", True)
    split = {"type": "Split", "pattern": {"Regex": r"\w+"}}
    assert pre_tokenizer({"type": "Sequence", "pretokenizers": [split, level]}) == ("default", False)
