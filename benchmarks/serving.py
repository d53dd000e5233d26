"""What the two load tests of the server share: starting one, asking it, reading its metrics."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx


@contextlib.contextmanager
def serving(options: Sequence[str], log: Path) -> Iterator[tuple[str, int]]:
    """`paradraft serve` on a free port of this machine, its stderr in `log`; address and process id."""
    command = [sys.executable, "-m", "paradraft.cli", "serve", "--port", "0", *options]
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            if not said:
                raise SystemExit(f"the server did not start:\n{log.read_text(encoding='utf-8')}")
            wait_until_it_answers(said[-1])
            yield said[-1], process.pid
        finally:
            process.terminate()
            process.wait()


def wait_until_it_answers(url: str) -> None:
    while True:
        try:
            httpx.get(f"{url}/health", timeout=60)
            return
        except httpx.ConnectError:  # the port is bound, and about to be listened at
            time.sleep(0.05)


def metrics(url: str) -> dict[str, float]:
    """Every sample of /metrics by its name with labels."""
    text = httpx.get(f"{url}/metrics", timeout=60).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def wait_until_idle(url: str, seconds: float = 60.0) -> float:
    """Rows and waiting answers that are still there after so many seconds, at best 0."""
    ended = time.monotonic() + seconds
    while True:
        found = metrics(url)
        left = found["paradraft_running"] + found["paradraft_waiting"]
        if not left or time.monotonic() > ended:
            return left
        time.sleep(0.1)
