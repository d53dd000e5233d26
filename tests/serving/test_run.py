"""`paradraft serve` as a process: it drains when told to stop, warns, and says what is missing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from paradraft.errors import UserError
from paradraft.serving.run import bind, open_warning
from tests.test_cli import run

CHAT = {"messages": [{"role": "user", "content": "the cat"}], "temperature": 0, "max_tokens": 100}


@contextmanager
def serving(target: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, its address and the model's name."""
    command = [sys.executable, "-m", "paradraft.cli", "serve", "--target", str(target), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("serving "), process.communicate()
        yield process, said.split()[-1], said.split()[1]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(target_directory: Path, how: signal.Signals) -> None:
    """What runs and what waits is answered to its end, nothing new is taken, the exit code is 0."""
    with serving(target_directory, "--max-rows", "1") as (process, url, model):
        while True:
            try:
                assert httpx.get(f"{url}/health").json()["status"] == "ok"
                break
            except httpx.ConnectError:  # bound, and about to listen
                time.sleep(0.05)
        whole = httpx.post(f"{url}/v1/chat/completions", json=CHAT | {"model": model}, timeout=300).json()
        replies: list[httpx.Response] = []

        def ask() -> None:
            replies.append(httpx.post(f"{url}/v1/chat/completions", json=CHAT | {"model": model}, timeout=300))

        asking = [threading.Thread(target=ask) for _ in range(6)]
        for thread in asking:
            thread.start()
        while "paradraft_running 1.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.01)
        time.sleep(0.2)  # until all six are there
        process.send_signal(how)
        for thread in asking:
            thread.join()
        assert [reply.status_code for reply in replies] == [200] * 6
        assert {reply.json()["choices"][0]["message"]["content"] for reply in replies} == {
            whole["choices"][0]["message"]["content"]
        }
        assert process.wait(120) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        assert process.stderr is not None and "Traceback" not in process.stderr.read()


def test_a_port_in_use_is_one_sentence(target_directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"port \d+ of 127.0.0.1 cannot be used .*--port"):
            bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="cannot be used"):
        bind("no.such.host.invalid", 80)


def test_the_warning_without_a_key() -> None:
    assert "no API key" in (open_warning("0.0.0.0", None) or "")
    assert "no API key" in (open_warning("192.168.1.4", None) or "")
    assert open_warning("0.0.0.0", "key") is None
    assert "no API key" in (open_warning("::", None) or "")
    assert [open_warning(address, None) for address in ("127.0.0.1", "127.3.2.1", "::1")] == [None] * 3
    with bind("localhost", 0) as listening:
        assert open_warning(listening.getsockname()[0], None) is None


def test_mistakes_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, said in (
        (["--engine", "triton"], "'triton' is not known; what is: embedded, vllm, sglang"),
        (["--", "--gpu-memory-utilization", "0.8"], "is too much"),
        (["--draft-length", "3"], "give a drafter with --drafter"),
        (["--draft-length", "long", "--drafter", "demo:pard"], "a number of tokens or auto"),
        (["--engine", "vllm", "--drafter", "demo:pard", "--draft-length", "auto"], "give --draft-length a number"),
        (["--engine", "vllm", "--max-queue", "3"], "--max-queue is for --engine embedded"),
        (["--engine", "vllm", "--drafter", "demo:pard", "--drafter", "demo:pard2"], "give one --drafter"),
    ):
        with pytest.raises(UserError, match=said):
            run("serve", *options)
    monkeypatch.setattr("paradraft.commands.serve.NEEDED", ("no_such_package",))
    with pytest.raises(UserError, match=r'pip install "paradraft\[serve\]"'):
        run("serve")


def test_the_rest_works_without_the_packages() -> None:
    """Nothing but the server imports them."""
    code = """
import sys
for name in ("fastapi", "starlette", "uvicorn", "prometheus_client"):
    sys.modules[name] = None
import pkgutil, importlib, paradraft
for found in pkgutil.walk_packages(paradraft.__path__, "paradraft."):
    if not found.name.startswith("paradraft.serving.") or found.name.endswith("real_engines"):
        importlib.import_module(found.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
