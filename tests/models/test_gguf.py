"""GGUF files as targets: read right, dequantised once, whatever comes between."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType, quants
from typer.testing import CliRunner

from paradraft.cli import app
from paradraft.errors import UserError
from paradraft.models import Target, gguf
from paradraft.models.gguf import cache_directory, dequantized, origin
from paradraft.text.provenance import identify

from .tiny_gguf import write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARADRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("quantized", [False, True])
def test_a_file_is_the_model_it_was_written_from(tmp_path: Path, quantized: bool) -> None:
    model, tokenizer = write_gguf(tmp_path / "tiny.gguf", quantized)
    target = Target.load(str(tmp_path / "tiny.gguf"))
    assert target.name == "tiny.gguf" and target.dtype == torch.float32
    assert target.origin == f"{'Q8_0' if quantized else 'F32'} weights of tiny.gguf, dequantised"
    with torch.no_grad():
        if quantized:
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    packed = quants.quantize(parameter.numpy(), GGMLQuantizationType.Q8_0)
                    parameter.copy_(torch.from_numpy(quants.dequantize(packed, GGMLQuantizationType.Q8_0)))
        ids = torch.tensor([tokenizer("the cat sat on the mat").input_ids])
        wanted = model(ids).logits
    torch.testing.assert_close(target.logits(ids, torch.zeros_like(ids)), wanted, rtol=1e-4, atol=1e-4)
    assert target.chat.encode("the cat<|im_end|>") == tokenizer("the cat<|im_end|>").input_ids
    assert target.chat.stop_tokens == {tokenizer.eos_token_id} and target.chat.template == tokenizer.chat_template


def test_it_is_dequantised_once_and_says_what_it_is(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, quantized=True)
    directory = dequantized(path)
    assert directory.parent == cache / "gguf" and origin(directory) == "Q8_0 weights of tiny.gguf, dequantised"
    assert "quantization_config" not in json.loads((directory / "config.json").read_text())
    assert origin(tmp_path) is None
    monkeypatch.setattr(gguf, "write_dequantized", lambda path, out: pytest.fail("made twice"))
    moved = path.rename(tmp_path / "other.gguf")
    assert dequantized(moved) == directory and Target.load(str(directory)).vocabulary_size
    assert identify(str(moved)).same(identify(str(directory))) and identify(str(moved)).model == "other.gguf"
    moved.write_bytes(moved.read_bytes() + b"\0")
    with pytest.raises(pytest.fail.Exception, match="made twice"):  # another file: another directory
        dequantized(moved)


def test_a_directory_is_whole_or_absent(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    write = gguf.write_dequantized

    def killed(path: Path, out: Path) -> None:
        write(path, out)
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "write_dequantized", killed)
    with pytest.raises(KeyboardInterrupt):
        dequantized(path)
    assert list((cache / "gguf").iterdir()) == []
    monkeypatch.setattr(gguf, "write_dequantized", write)
    (dequantized(path) / gguf.NOTE).unlink()
    with pytest.raises(UserError, match=r"is not what was made of tiny\.gguf; remove it and it is made again"):
        dequantized(path)


def test_makers_at_the_same_time_do_not_disturb_each_other(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF")
    together = threading.Barrier(4)

    def slowly(path: Path, out: Path) -> None:
        (out / "model.safetensors").write_text(str(out))
        together.wait(30)
        (out / gguf.NOTE).write_text(json.dumps({"file": str(out), "weights": "F32"}))

    monkeypatch.setattr(gguf, "write_dequantized", slowly)
    with ThreadPoolExecutor(4) as pool:
        (directory,) = set(pool.map(dequantized, [path] * 4))
    assert [entry.name for entry in (cache / "gguf").iterdir()] == [directory.name]
    assert json.loads((directory / gguf.NOTE).read_text())["file"] == (directory / "model.safetensors").read_text()


def test_digits_stand_alone_where_the_file_says_so(tmp_path: Path) -> None:
    """As llama.cpp splits text for SmolLM2: two line breaks in front of a digit are one token, as the model writes."""
    write_gguf(tmp_path / "plain.gguf")
    write_gguf(tmp_path / "smollm.gguf", split="smollm")
    plain, apart = (Target.load(str(tmp_path / f"{name}.gguf")).chat for name in ("plain", "smollm"))
    assert len(plain.encode("4\n\n5")) == 4 and len(apart.encode("4\n\n5")) == 3
    assert plain.decode(plain.encode("4\n\n5")) == apart.decode(apart.encode("4\n\n5")) == "4\n\n5"


def test_what_ends_a_turn_ends_an_answer(tmp_path: Path) -> None:
    _, tokenizer = write_gguf(tmp_path / "tiny.gguf", more=lambda writer: writer.add_eot_token_id(7))
    assert Target.load(str(tmp_path / "tiny.gguf")).chat.stop_tokens == {tokenizer.eos_token_id, 7}


@pytest.mark.parametrize(
    ("layers", "more", "complaint"),
    [
        (1, lambda writer: None, r"lacks model\.layers\.1\..*: it is not a whole model"),
        (
            1,
            lambda writer: writer.add_uint16("split.count", 3),
            r"one of 3 parts .*llama-gguf-split --merge tiny\.gguf",
        ),
        (2, lambda writer: writer.add_rope_scaling_type(RopeScalingType.LINEAR), r"scaled rotary positions \(linear\)"),
        (2, lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(4, np.float32)), "positions .rope_freqs."),
    ],
)
def test_a_file_that_would_be_another_model_is_refused(
    layers: int, more: Callable[[Any], None], complaint: str, tmp_path: Path, cache: Path
) -> None:
    write_gguf(tmp_path / "tiny.gguf", layers=layers, more=more)
    with pytest.raises(UserError, match=complaint):
        Target.load(str(tmp_path / "tiny.gguf"))
    assert list((cache / "gguf").iterdir()) == []


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    """Such as llama.cpp's files of vocabularies."""
    writer = GGUFWriter(tmp_path / "vocabulary.gguf", "qwen3")
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="holds no weights"):
        Target.load(str(tmp_path / "vocabulary.gguf"))


def test_what_is_wrong_is_said(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.gguf"
    with pytest.raises(UserError, match=r"tiny\.gguf does not exist; give the path of a GGUF file"):
        Target.load(str(path))
    write_gguf(path)
    whole = path.read_bytes()
    for damaged in (b"", b"no GGUF at all", whole[: len(whole) // 2], whole[:-64]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"tiny\.gguf cannot be read as GGUF"):
            dequantized(path)
    path.write_bytes(whole)
    monkeypatch.setenv("PARADRAFT_CACHE", str(path))
    with pytest.raises(UserError, match=r"cannot be made .*; set PARADRAFT_CACHE to another directory"):
        dequantized(path)
    monkeypatch.setenv("PARADRAFT_CACHE", str(cache))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"needs the package gguf .*: pip install gguf"):
        dequantized(path)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> None:
    assert cache_directory() == cache
    monkeypatch.delenv("PARADRAFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "paradraft"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "paradraft"


def test_the_command_line_takes_a_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", quantized=True)
    arguments = ["generate", "--target", str(tmp_path / "tiny.gguf"), "--max-new-tokens", "6", "the cat"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
