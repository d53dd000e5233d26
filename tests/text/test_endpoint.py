"""A server that answers: the same text as the engine, failures that pass, and what is asked of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from paradraft.decoding import Engine
from paradraft.decoding.answerer import EmbeddedAnswerer
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.models.chat import load_chat
from paradraft.text.conversations import turns_of
from paradraft.text.endpoint import Endpoint
from paradraft.text.render import render_prompt
from paradraft.text.sources import read_source

from .requests import request_for


class Server(ThreadingHTTPServer):
    """Speaks /v1/models and /v1/completions like vLLM; `faults` (status, or None: hangs up) come before answers."""

    daemon_threads = True
    faults: list[int | None]
    bodies: list[dict[str, Any]]
    refuses: set[tuple[int, ...]]  # prompts that get status 400, as those longer than `longest` do
    longest: int

    def __init__(self, answerer: EmbeddedAnswerer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answerer, self.faults, self.bodies, self.lock = answerer, [], [], threading.Lock()
        self.refuses, self.longest = set(), 99

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def reply(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "tiny", "max_model_len": 100}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            if tuple(body["prompt"]) in self.server.refuses or len(body["prompt"]) > self.server.longest:
                self.reply(400, {"error": {"message": "too odd"}})
                return
            if self.server.faults:
                fault = self.server.faults.pop(0)
                if fault is None:
                    self.close_connection = True
                    self.connection.close()
                else:
                    self.reply(fault, {"error": {"message": "not now"}})
                return
            self.server.bodies.append(body)
            (answer,) = self.server.answerer.answer([body["prompt"]], body["seed"])
        reason = "stop" if answer.stopped else "length"
        usage = {"completion_tokens": answer.tokens}
        self.reply(200, {"choices": [{"text": answer.text, "finish_reason": reason}], "usage": usage})


@pytest.fixture
def server(tiny: Target) -> Iterator[Server]:
    server = Server(EmbeddedAnswerer(Engine(tiny), 12))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_gives_the_answers_of_the_engine(
    target_directory: Path, many_prompts: Path, tmp_path: Path, server: Server
) -> None:
    own, served = tmp_path / "own.jsonl", tmp_path / "served.jsonl"
    request_for(target_directory, many_prompts, own)()
    request_for(target_directory, many_prompts, served, endpoint=server.url, concurrency=5)()
    assert served.read_bytes() == own.read_bytes()
    assert {body["model"] for body in server.bodies} == {"tiny"} and len(server.bodies) >= 60


def test_a_few_refused_prompts_are_left_out_and_said(
    target_directory: Path,
    many_prompts: Path,
    tmp_path: Path,
    server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own, served = tmp_path / "own.jsonl", tmp_path / "served.jsonl"
    request_for(target_directory, many_prompts, own)()
    server.refuses = {tuple(asked_first(target_directory, many_prompts, 40))}
    request = request_for(target_directory, many_prompts, served, endpoint=server.url, concurrency=5)
    with pytest.raises(UserError, match=r"line 41: .*status 400: .*too odd.*\(1 prompts were refused; --max"):
        request()
    asked = len(server.bodies)
    assert not served.exists()
    request(max_bad_share=0.05)
    expected = own.read_text().splitlines()
    assert served.read_text().splitlines() == expected[:40] + expected[41:]
    assert len(server.bodies) - asked < 50  # what was kept is not asked again
    said = capsys.readouterr().err
    assert "too odd" in said and "1 prompts were refused by the server" in said


def test_a_server_that_refuses_everything_is_left_at_once(
    target_directory: Path, many_prompts: Path, tmp_path: Path, server: Server
) -> None:
    server.longest = 0
    request = request_for(target_directory, many_prompts, tmp_path / "out.jsonl", endpoint=server.url, concurrency=5)
    request = partial(request, max_bad_share=1.0)
    with pytest.raises(UserError, match=r"too odd.*\(and not one of the first 8 prompts was answered\)"):
        request()
    with pytest.raises(UserError, match=r"line [12]: .*too odd"):
        request(limit=2)


def asked_first(target_directory: Path, prompts: Path, number: int) -> list[int]:
    """Ids of a conversation's first prompt."""
    chat, _ = load_chat(str(target_directory))
    return render_prompt(chat, turns_of(read_source(str(prompts), prompts=True).conversations[number])[0])


def endpoint(server: Server, waits: list[float], **changes: Any) -> Endpoint:
    return Endpoint(server.url, 12, sleep=waits.append, **changes)


def test_passing_failures_are_tried_again_and_others_are_not(server: Server) -> None:
    waits: list[float] = []
    connected = endpoint(server, waits, attempts=5)
    assert connected.context_length == 100
    server.faults = [503, None, 429]
    (answer,) = connected.answer([[3, 4, 5]], seed=0)
    assert answer.tokens > 0 and waits == [0.5, 1.0, 2.0]
    server.faults = [400]
    with pytest.raises(UserError, match=r"refuses the request with status 400: .*not now"):
        connected.answer([[3]], seed=0)
    server.faults = [500] * 9
    with pytest.raises(UserError, match=r"does not answer \(status 500, 5 attempts\).*what is answered is kept"):
        connected.answer([[3]], seed=0)
    with pytest.raises(UserError, match="serves tiny; name one of them with --model"):
        endpoint(server, waits, model="huge")
    with pytest.raises(UserError, match="variable NO_SUCH_KEY is not set"):
        endpoint(server, waits, key_variable="NO_SUCH_KEY")
    with pytest.raises(UserError, match="does not answer"):
        Endpoint("http://127.0.0.1:1", 12, attempts=2, sleep=waits.append)
    for url in ("localhost:8000", "http://localhost:port"):
        with pytest.raises(UserError, match="is no URL of a server"):
            Endpoint(url, 12)


def test_a_server_samples_as_it_is_asked_and_not_by_the_models_defaults(server: Server) -> None:
    """Qwen2.5's generation_config.json has a repetition penalty: answers under it are not the target's own."""
    endpoint(server, []).answer([[3, 4, 5]], seed=0)
    endpoint(server, [], top_k=7).answer([[3, 4, 5]], seed=0)
    plain, limited = server.bodies
    assert plain["top_k"] == -1 and limited["top_k"] == 7 and plain["top_p"] == 1.0 and plain["min_p"] == 0.0
    assert plain["repetition_penalty"] == 1.0 and plain["presence_penalty"] == plain["frequency_penalty"] == 0.0
