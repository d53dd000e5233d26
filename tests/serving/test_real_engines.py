"""The commands that start vLLM and SGLang. The engines themselves are not run here: `make test-vllm` runs vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from paradraft.drafters import DFlash
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.models.names import drafter_directory, target_name
from paradraft.serving.real_engines import Wish, sglang_launch, vllm_launch
from tests.conftest import make_drafter_of
from tests.interchange.test_exchange import reduce
from tests.test_cli import run

SERVER = ["-m", "vllm.entrypoints.openai.api_server"]
SHIM = """#!/bin/sh
exec "{python}" "$0.py" "$@"
"""
CALLED = """import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
json.dump([sys.argv[1:], os.environ.get("VLLM_API_KEY")], open({out!r} + ".part", "w"))
os.rename({out!r} + ".part", {out!r})
time.sleep(float(os.environ.get("SHIM_SECONDS", 0)))
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `vllm` on the PATH, beside a Python that writes down how it was called; where it writes."""
    folder, out = tmp_path / "bin", tmp_path / "called.json"
    folder.mkdir()
    for name in ("vllm", "python"):
        (folder / name).write_text(SHIM.format(python=sys.executable))
        (folder / name).chmod(0o755)
        (folder / f"{name}.py").write_text(CALLED.format(out=str(out)))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return out


@pytest.mark.parametrize(
    ("drafter", "method"),
    [
        ("demo:dflash-dpace", {"method": "dflash"}),
        ("demo:pard", {"method": "draft_model", "parallel_drafting": True}),
        ("demo:vanilla", {"method": "draft_model"}),
    ],
)
def test_vllm_is_told_the_method(vllm: Path, drafter: str, method: dict[str, object]) -> None:
    run(
        *("serve", "--engine", "vllm", "--drafter", drafter, "--draft-length", 3, "--host", "0.0.0.0"),
        *("--port", 9000, "--api-key", "sesame", "--max-rows", 8, "--", "--enforce-eager"),
    )
    arguments, key = json.loads(vllm.read_text())
    assert arguments[:2] == SERVER and arguments[-1] == "--enforce-eager" and key == "sesame"
    assert "sesame" not in arguments
    options = dict(zip(arguments[2:-1:2], arguments[3:-1:2], strict=True))
    assert options.pop("--model") == target_name("demo")
    speculative = json.loads(options.pop("--speculative-config"))
    assert speculative == {**method, "model": str(drafter_directory(drafter)), "num_speculative_tokens": 3}
    assert options == {
        "--served-model-name": "demo",
        "--host": "0.0.0.0",
        "--port": "9000",
        "--dtype": "auto",
        "--max-num-seqs": "8",
    }


def test_vllm_gets_an_export_where_it_needs_one(vllm: Path, target_directory: Path, tmp_path: Path) -> None:
    """A reduced vocabulary goes over in the speculators format."""
    target = Target.load(str(target_directory))
    DFlash.fresh(target, layers=2, block_size=4).save_pretrained(tmp_path / "drafter")
    reduce(tmp_path / "drafter", [*range(30)], target.vocabulary_size)
    (tmp_path / "scratch").mkdir()
    wish = Wish(str(target_directory), str(tmp_path / "drafter"), "127.0.0.1", 8000)
    command = vllm_launch(wish, tmp_path / "scratch").command
    speculative = json.loads(command[command.index("--speculative-config") + 1])
    assert speculative == {"method": "dflash", "model": str(tmp_path / "scratch/drafter"), "num_speculative_tokens": 3}
    config = json.loads((tmp_path / "scratch/drafter/config.json").read_text())
    assert config["speculators_model_type"] == "dflash"


def test_code_of_the_target_is_trusted_wherever_it_is_read(
    vllm: Path, target_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target.load(str(target_directory))
    DFlash.fresh(target, layers=2, block_size=4).save_pretrained(tmp_path / "drafter")
    reduce(tmp_path / "drafter", [*range(30)], target.vocabulary_size)  # so that it is exported
    asked: list[bool] = []
    for module in ("AutoConfig", "AutoTokenizer"):
        read = getattr(transformers, module).from_pretrained

        def watched(*given: Any, read: Any = read, trust_remote_code: bool = False, **more: Any) -> Any:
            asked.append(trust_remote_code)
            return read(*given, trust_remote_code=trust_remote_code, **more)

        monkeypatch.setattr(getattr(transformers, module), "from_pretrained", watched)
    wish = Wish(str(target_directory), str(tmp_path / "drafter"), "127.0.0.1", 8000, trust_remote_code=True)
    (tmp_path / "scratch").mkdir()
    vllm_launch(wish, tmp_path / "scratch")
    assert len(asked) > 2 and all(asked)


def test_without_a_drafter_and_without_a_key(vllm: Path) -> None:
    launch = vllm_launch(Wish("demo", None, "127.0.0.1", 1, trust_remote_code=True), vllm.parent)
    assert launch.command[1:] == [
        *(*SERVER, "--model", target_name("demo"), "--served-model-name", "demo", "--host", "127.0.0.1", "--port", "1"),
        *("--dtype", "auto", "--trust-remote-code"),
    ]
    assert not launch.environment


def test_sglang(target_directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SGLang is not installed"):
        sglang_launch(Wish("demo", None, "127.0.0.1", 1), tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    wish = Wish("demo", "demo:dflash-dpace", "127.0.0.1", 8000, max_rows=4, max_length=512)
    command = sglang_launch(wish, tmp_path).command
    assert command[:5] == [sys.executable, "-m", "sglang.launch_server", "--model-path", target_name("demo")]
    rest = "--max-running-requests 4 --context-length 512 --speculative-algorithm DFLASH --speculative-draft-model-path"
    assert command[-8:] == [*rest.split(), str(drafter_directory("demo:dflash-dpace"))]
    plain = sglang_launch(Wish("demo", "demo:vanilla", "127.0.0.1", 8000, draft_length=2), tmp_path).command
    steps = "--speculative-num-steps 2 --speculative-eagle-topk 1 --speculative-num-draft-tokens 3"
    assert plain[-6:] == steps.split()
    with pytest.raises(UserError, match="cannot use demo:pard: it does not draft in parallel"):
        sglang_launch(Wish("demo", "demo:pard", "127.0.0.1", 8000), tmp_path)
    make_drafter_of("dflash2", Target.load(str(target_directory))).save_pretrained(tmp_path / "dflash2")
    for name, drafter in (("demo", "demo:dflash-dpace"), (str(target_directory), str(tmp_path / "dflash2"))):
        with pytest.raises(UserError, match="always drafts a whole block"):
            sglang_launch(Wish(name, drafter, "127.0.0.1", 8000, draft_length=2), tmp_path)


def test_mistakes(vllm: Path, target_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = Wish(str(target_directory), "demo:dflash-dpace", "127.0.0.1", 8000)
    with pytest.raises(UserError, match=r"vLLM 0\.32 cannot use demo:dflash-dpace: made for a target with hidden_size"):
        vllm_launch(wish, vllm.parent)
    with pytest.raises(UserError, match="outside 1 to 9"):
        vllm_launch(Wish("demo", "demo:pard", "127.0.0.1", 8000, draft_length=10), vllm.parent)
    wish = replace(wish, target="demo")
    (vllm.parent / "bin/python").unlink()
    with pytest.raises(UserError, match="no Python beside"):
        vllm_launch(wish, vllm.parent)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="no command vllm on the PATH"):
        vllm_launch(wish, vllm.parent)


def test_the_engine_is_told_to_stop_and_its_exit_code_is_ours(vllm: Path) -> None:
    command = [sys.executable, "-m", "paradraft.cli", "serve", "--engine", "vllm"]
    process = subprocess.Popen(command, env={**os.environ, "SHIM_SECONDS": "30"})
    try:
        while not vllm.exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 7
    finally:
        process.kill()
