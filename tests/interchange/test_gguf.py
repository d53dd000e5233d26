"""The GGUF file against its reader's contract: layers count one more, d2t holds the target's ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, GGUFWriter, dequantize
from safetensors.torch import load_file, save_file

from paradraft.errors import UserError
from paradraft.interchange.exchange import export
from paradraft.interchange.gguf import check_file, gguf_name, pre_tokenizer
from paradraft.models import Target
from tests.interchange.test_exchange import edit, reduce, saved, target

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
        read = torch.from_numpy(dequantize(found[gguf_name(name)].data, found[gguf_name(name)].tensor_type).copy())
        assert torch.equal(read.view(tensor.shape), tensor.float()), name
        assert found[gguf_name(name)].tensor_type.name == ("F32" if tensor.ndim == 1 else str_of(dtype))


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


def test_a_gguf_targets_tokenizer_is_copied(
    target: Target, target_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = GGUFWriter(tmp_path / "target.gguf", "qwen3")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = saved("dflash", target, tmp_path / "ours")
    export(str(ours), "gguf", tmp_path / "out", str(tmp_path / "target.gguf"))
    reader = GGUFReader(tmp_path / "out" / "drafter.gguf")
    assert field(reader, "tokenizer.ggml.pre") == "qwen2" and field(reader, "tokenizer.ggml.tokens") == ["a", "b"]


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
