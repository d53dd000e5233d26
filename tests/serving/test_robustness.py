"""The server under careless and hostile clients: refusals, limits, clients that leave, poison."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import Any

import httpx
import openai
import pytest

from paradraft.decoding import Engine, Event
from paradraft.models import Target
from paradraft.serving.engine_thread import EngineThread
from paradraft.text.render import render_prompt
from tests.serving.conftest import MODEL, Running, make_service, running
from tests.serving.test_server import CHAT, MESSAGES, offline


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: (time.sleep(0.02), step(engine))[1])


# --- what it refuses --------------------------------------------------------------------------------------------------


def refusal(response: httpx.Response, status: int) -> str:
    """The message of an error in OpenAI's shape; nothing of this machine is in it."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "/" not in error["message"].replace("application/json", "").replace("Content-Type", "")
    return str(error["message"])


def test_a_text_that_cannot_fit_is_refused_unread(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading 200,000 characters costs tens of MiB, which the process never gives back."""
    most = 128 * max(map(len, server.service.chat.tokenizer.get_vocab()))
    post, ask = server.http.post, {"model": MODEL, "max_tokens": 2}
    fits = "a" * most
    assert "tokens; with 2 of an answer" in refusal(post("/v1/completions", json=ask | {"prompt": fits}), 400)
    monkeypatch.setattr(server.service, "_read", lambda asked: pytest.fail("it was read"))
    long = f"{most + 1} characters, more than the 128 tokens"
    assert long in refusal(post("/v1/completions", json=ask | {"prompt": ["b", fits + "a"]}), 400)
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": fits}]
    assert long in refusal(post("/v1/chat/completions", json=ask | {"messages": messages}), 400)


def test_refusals_have_openais_shape(server: Running) -> None:
    http = server.http
    post = lambda **more: http.post("/v1/chat/completions", json=CHAT | more)  # noqa: E731
    assert "unknown field" in refusal(post(max_new_tokens=3), 400)
    assert "more than the 128" in refusal(post(max_tokens=500), 400)
    assert "more than the 128" in refusal(post(messages=[{"role": "user", "content": "cat " * 300}]), 400)
    assert "at most 20" in refusal(post(n=21), 400)
    assert "no such drafter" in refusal(post(paradraft={"drafter": "third"}), 400)
    assert "outside 1 to 5" in refusal(post(paradraft={"draft_length": 6}), 400)
    half = json.dumps(CHAT | {"messages": [{"role": "user", "content": "\ud800"}]})
    refusal(http.post("/v1/chat/completions", content=half, headers={"content-type": "application/json"}), 400)
    tokens = {"model": MODEL, "prompt": [5, 10**9]}
    assert "no token 1000000000" in refusal(http.post("/v1/completions", json=tokens), 400)
    assert "no token -1" in refusal(http.post("/v1/completions", json={"model": MODEL, "prompt": [-1]}), 400)
    assert "is empty" in refusal(http.post("/v1/completions", json={"model": MODEL, "prompt": ""}), 400)
    assert "Content-Type" in refusal(http.post("/v1/completions", content=b"{}"), 415)
    refusal(http.get("/v1/completions"), 405)
    refusal(http.get("/v1/../../etc/passwd"), 404)
    with pytest.raises(openai.BadRequestError) as caught:
        server.openai.chat.completions.create(**CHAT | {"temperature": 5})
    assert caught.value.param == "temperature"


def test_a_bug_is_a_500_that_says_nothing(served_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("the secret of a bug")

    with running(make_service(served_target)) as server:
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "step", broken)
            assert "its log says why" in refusal(server.http.post("/v1/chat/completions", json=CHAT), 500)
            stream = server.http.post("/v1/chat/completions", json=CHAT | {"stream": True})
            assert "its log says why" in stream.text and "secret" not in stream.text
        monkeypatch.setattr(EngineThread, "submit", broken)
        with httpx.Client(base_url=server.url) as http:
            assert "its log says why" in refusal(http.post("/v1/chat/completions", json=CHAT), 500)


def test_a_key_is_asked_for(served_target: Target) -> None:
    with running(make_service(served_target), key="sesame") as server:
        assert server.openai.models.list().data
        for header in (
            {},
            {"Authorization": "Bearer sesam"},
            {"Authorization": "sesame"},
            {"Authorization": "Bearer ü"},
        ):
            sent = {name: value.encode("latin-1") for name, value in header.items()}
            refusal(server.http.post("/v1/chat/completions", json=CHAT, headers=sent), 401)
            refusal(server.http.get("/v1/models", headers=sent), 401)
        assert server.http.get("/health").json()["needs_key"] and server.http.get("/").status_code == 200


def test_a_full_server_says_when_to_come_back(served_target: Target, slow_steps: None) -> None:
    with running(make_service(served_target, max_rows=1, max_queue=1)) as server:
        replies: list[httpx.Response] = []

        def ask() -> None:
            replies.append(server.http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 60}))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429]
        full = next(reply for reply in replies if reply.status_code == 429)
        assert "is full" in refusal(full, 429) and int(full.headers["retry-after"]) >= 1
        assert len({reply.text.split('"content": ')[1] for reply in replies if reply.status_code == 200}) == 1


def test_bodies_that_are_too_large_or_too_slow(served_target: Target) -> None:
    with running(make_service(served_target, max_bytes=1000, body_seconds=1.0)) as server:
        large = json.dumps(CHAT | {"user": "x" * 2000}).encode()
        json_type = {"content-type": "application/json"}
        assert "larger than" in refusal(server.http.post("/v1/chat/completions", content=large, headers=json_type), 413)
        parts = (large[i : i + 300] for i in range(0, len(large), 300))  # chunked: no length is announced
        assert "larger than" in refusal(server.http.post("/v1/chat/completions", content=parts, headers=json_type), 413)
        with connection(server) as slow:
            slow.sendall(head("/v1/chat/completions", 500) + b'{"model"')
            assert b" 408 " in slow.recv(4096)


def test_a_client_that_leaves_within_its_request_is_no_error_of_ours(server: Running) -> None:
    def counted() -> list[str]:
        found = server.http.get("/metrics").text.splitlines()
        counts = [line for line in found if line.startswith("paradraft_requests_total")]
        return [line for line in counts if '"499"' in line or '"500"' in line]

    before = counted()
    with connection(server) as leaving:
        leaving.sendall(head("/v1/completions", 500) + b'{"model"')
    for _ in range(100):
        if (after := counted()) != before:
            break
        time.sleep(0.05)
    assert any('"499"' in line for line in after) and not any('"500"' in line for line in after)


def test_an_answer_that_takes_too_long(served_target: Target, slow_steps: None) -> None:
    with running(make_service(served_target, seconds=0.3)) as server:
        asked = CHAT | {"max_tokens": 100, "paradraft": {"drafter": None}}
        assert "more than 0.3 seconds" in refusal(server.http.post("/v1/chat/completions", json=asked), 504)
        stream = server.http.post("/v1/chat/completions", json=asked | {"stream": True})
        assert stream.status_code == 200 and "more than 0.3 seconds" in stream.text.split("\n\n")[-3]
        server.wait_until_idle()


# --- clients that leave -----------------------------------------------------------------------------------------------


def connection(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(path: str, length: int) -> bytes:
    lines = f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}"
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_row_within_two_rounds(
    served_target: Target, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in steps that begin once the server could know; the others' answer is not touched."""
    step, steps = Engine.step, list[int]()

    def counted(engine: Engine) -> list[Event]:
        steps.append(len(engine.scheduler.running))
        time.sleep(0.03)
        return step(engine)

    monkeypatch.setattr(Engine, "step", counted)
    wanted = offline(served_target, render_prompt(served_target.chat, MESSAGES), 40)
    with running(make_service(served_target)) as server:
        body = json.dumps(CHAT | {"max_tokens": 100, "stream": stream, "paradraft": {"drafter": None}}).encode()
        staying: list[str] = []
        stays = threading.Thread(
            target=lambda: staying.append(
                server.http.post(
                    "/v1/chat/completions", json=CHAT | {"max_tokens": 40, "paradraft": {"drafter": None}}
                ).json()["choices"][0]["message"]["content"]
            )
        )
        stays.start()
        leaving = connection(server)
        leaving.sendall(head("/v1/chat/completions", len(body)) + body)
        while server.metric("paradraft_running") < 2:
            time.sleep(0.005)
        began = len(steps)
        leaving.close()
        while server.metric("paradraft_running") == 2:
            time.sleep(0.001)
        assert len(steps) - began <= 2
        stays.join()
        assert staying == [wanted]
        assert server.metric("paradraft_answers_total", reason="cancelled") == 1


def test_poison_does_not_spread(server: Running, served_target: Target) -> None:
    """While all sorts of broken and extreme requests run, a good one's greedy text is the one of offline decoding."""
    wanted = offline(served_target, render_prompt(served_target.chat, MESSAGES), 60)
    poison: list[dict[str, Any]] = [
        {"prompt": [0] * 100, "max_tokens": 28, "temperature": 2, "top_p": 1e-9},
        {"prompt": "\ufffd" * 20, "max_tokens": 50, "temperature": 0.001, "logprobs": 20},
        {"prompt": [[5], [6]], "n": 2, "stop": ["a", "e", "\ufffd"], "max_tokens": 90},
        {"prompt": "x", "max_tokens": 10**9},
        {"prompt": [2**40]},
        {"prompt": "the cat sat", "seed": -(2**63), "temperature": 1, "top_k": 1, "max_tokens": 80},
    ]

    found = asyncio.run(mixed(server, poison))
    assert found == [wanted] * 4
    server.wait_until_idle()


async def mixed(server: Running, poison: list[dict[str, Any]]) -> list[str]:
    """The good answers among the bad requests; whoever finds the server full comes back."""
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as http:

        async def ask(path: str, body: dict[str, Any]) -> httpx.Response:
            while (reply := await http.post(path, json=body)).status_code == 429:
                await asyncio.sleep(0.05)
            assert reply.status_code in (200, 400), reply.text
            return reply

        bad = [ask("/v1/completions", {"model": MODEL, **one}) for one in poison * 2]
        good = [ask("/v1/chat/completions", CHAT | {"max_tokens": 60}) for _ in range(4)]
        replies = await asyncio.gather(*bad[:6], *good, *bad[6:])
        return [reply.json()["choices"][0]["message"]["content"] for reply in replies[6:10]]
