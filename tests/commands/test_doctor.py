"""`paradraft doctor`: the machine as found, and every engine's contract in a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from typer.testing import CliRunner

from paradraft import cli
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.models.cpu_kernels import bfloat16_is_fast
from tests.conftest import make_drafter


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_machine() -> None:
    found = json.loads(run("doctor", "--json"))
    assert found["packages"]["torch"] == torch.__version__
    assert found["cpu"]["bfloat16"] == bfloat16_is_fast(torch.device("cpu"))
    assert found["free_disk_gib"] > 0 and "engines" not in found
    output = run("doctor")
    assert torch.backends.cpu.get_cpu_capability() in output and f"torch {torch.__version__}" in output


def test_engines_of_a_shipped_drafter() -> None:
    arguments = ["doctor", "--target", "demo", "--drafter", "demo:pard2"]
    found = json.loads(run(*arguments, "--json"))
    assert found["drafter"] == {"name": "demo:pard2", "kind": "pard2", "target": "demo", "draft_length": 9}
    reads = {engine["engine"].split()[0]: engine["reads"] for engine in found["engines"]}
    assert reads == {"paradraft": True, "vLLM": True, "SGLang": False, "llama.cpp": False, "Transformers": False}
    output = run(*arguments)
    assert "the projection is ignored" in output and "does not draft in parallel" in output


def test_what_cannot_be_read_is_said_in_a_sentence(target: Target, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_drafter(target).save_pretrained(tmp_path / "drafter")
    weights = tmp_path / "drafter" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    for arguments, said in (
        (("--target", str(tmp_path / "empty"), "--drafter", "demo:pard2"), "empty cannot be read"),
        (("--target", "demo", "--drafter", str(tmp_path / "drafter")), "is damaged or cut off"),
    ):
        result = CliRunner().invoke(cli.app, ["doctor", *arguments], env={"COLUMNS": "400"})
        assert isinstance(result.exception, UserError) and said in str(result.exception)
