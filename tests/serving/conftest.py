"""Servers on this machine's loopback address, in a thread of the test's own process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn

from paradraft.models import Target
from paradraft.serving.run import bind
from paradraft.serving.server import create_app
from paradraft.serving.service import Limits, Service
from tests.conftest import make_drafter

MODEL = "tiny"


@dataclass
class Running:
    """A server that answers: where it is, what it serves, and clients for it."""

    url: str
    service: Service
    key: str | None = None

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key=self.key or "none", max_retries=0, timeout=300)

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=300)

    def metric(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    def wait_until_idle(self, seconds: float = 60.0) -> None:
        ended = time.monotonic() + seconds
        while self.metric("paradraft_running") or self.metric("paradraft_waiting"):
            assert time.monotonic() < ended, "rows are leaked"
            time.sleep(0.01)


@contextlib.contextmanager
def running(service: Service, key: str | None = None) -> Iterator[Running]:
    """Serve until the block ends; what is decoded then must have ended too."""
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(service, key), log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", service, key)
    finally:
        server.should_exit = True
        thread.join()
    assert not service.thread._live and service.metrics.registry.get_sample_value("paradraft_running") == 0


@pytest.fixture(scope="session")
def served_target(target_directory: Path) -> Target:
    """A random target of 128 tokens: it writes half characters, and never ends by itself for long."""
    target = Target.load(str(target_directory))
    target.name = MODEL
    return target


def make_service(target: Target, drafted: bool = True, **limits: float) -> Service:
    drafters = {"first": make_drafter(target), "second": make_drafter(target, 4, seed=2)} if drafted else {}
    longest = drafters["first"].max_draft if drafted else None  # so that rounds can be compared with the engine's
    return Service(target, drafters, Limits(**limits), longest)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def server(served_target: Target) -> Iterator[Running]:
    with running(make_service(served_target, max_rows=4, max_queue=16)) as found:
        yield found
