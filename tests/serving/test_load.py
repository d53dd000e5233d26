"""Seconds of the two load tests in benchmarks/: broken requests, and many clients at once."""

from __future__ import annotations

import asyncio
import logging

import pytest

from benchmarks.fuzz_server import fuzz
from benchmarks.serving import metrics
from benchmarks.soak import Question, soak, summary
from paradraft.decoding import Engine
from paradraft.models import Target
from paradraft.text.render import render_prompt
from tests.serving.conftest import MODEL, make_service, running


def test_broken_requests_get_4xx(served_target: Target, caplog: pytest.LogCaptureFixture) -> None:
    with running(make_service(served_target)) as server, caplog.at_level(logging.WARNING):
        found = asyncio.run(fuzz(server.url, MODEL, 100))
        assert not found["wrong"] and found["same_after"]
        assert sum(found["statuses"].values()) == 100
        assert all(found["statuses"].get(status, 0) for status in ("200", "400", "404", "405", "415"))
        server.wait_until_idle()
    assert not [record for record in caplog.records if record.exc_info]


def test_many_clients(served_target: Target) -> None:
    """Each right answer equals offline decoding, those who leave or talk nonsense harm nobody, no row is leaked."""
    asked = []
    for prompt in ("the cat sat", "a dog ran", "1 2 3", "on the mat"):
        ids = render_prompt(served_target.chat, [{"role": "user", "content": prompt}])
        tokens = Engine(served_target).generate([ids], 30)[0].tokens
        asked.append(Question(prompt, 30, served_target.chat.tokenizer.decode(tokens, skip_special_tokens=True)))
    with running(make_service(served_target, max_rows=3, max_queue=12)) as server:
        before = metrics(server.url)
        tally, samples = asyncio.run(soak(server.url, MODEL, asked, 3.0, 8, every=0.5))
        server.wait_until_idle()
        found = summary(tally, samples, before, metrics(server.url))
    assert not tally.wrong and tally.outcomes["right"] > 5
    assert set(tally.outcomes) <= {"right", "left", "malformed, answered", "full"}
    assert found["answer_seconds"]["p95"] >= found["answer_seconds"]["p50"] > 0
    assert found["tokens_per_second"] > 0 and found["resident_mib"]["end"] > 0


def test_a_wrong_answer_is_seen(served_target: Target) -> None:
    asked = [Question("the cat sat", 8, "what it does not say")]
    with running(make_service(served_target)) as server:
        tally, _ = asyncio.run(soak(server.url, MODEL, asked, 0.5, 2))
    assert tally.wrong and tally.outcomes["wrong"]
