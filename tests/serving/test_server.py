"""The server as OpenAI's own client sees it."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest

from paradraft.decoding import Engine, Sampling
from paradraft.decoding.length import DraftLength
from paradraft.drafters import Vanilla
from paradraft.drafters.vanilla import VanillaSection
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.serving.protocol import ChatRequest, read_request
from paradraft.serving.replies import by_text
from paradraft.serving.service import Limits, Service
from paradraft.text.endpoint import Endpoint
from paradraft.text.render import render_prompt
from tests.conftest import make_drafter
from tests.serving.conftest import MODEL, Running, make_service, running

MESSAGES: list[Any] = [{"role": "user", "content": "the cat sat"}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 24}


def offline(target: Target, prompt: list[int], new: int = 24) -> str:
    (generation,) = Engine(target, None, Sampling()).generate([prompt], new)
    tokens = generation.tokens[:-1] if generation.stopped else generation.tokens
    return str(target.chat.tokenizer.decode(tokens, skip_special_tokens=True))


# --- what it answers --------------------------------------------------------------------------------------------------


def test_chat_equals_offline_decoding(server: Running, served_target: Target) -> None:
    wanted = offline(served_target, render_prompt(served_target.chat, MESSAGES))
    found = server.openai.chat.completions.create(**CHAT)
    assert found.choices[0].message.content == wanted and found.choices[0].finish_reason in ("stop", "length")
    assert found.object == "chat.completion" and found.model == MODEL
    stream = server.openai.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason is not None
    assert len(chunks) > 5 and not last.choices and last.usage == found.usage
    plain = server.openai.chat.completions.create(**CHAT, extra_body={"paradraft": {"drafter": None}})
    assert plain.choices[0].message.content == wanted
    auto = server.openai.chat.completions.create(**CHAT, extra_body={"paradraft": {"draft_length": "auto"}})
    assert auto.choices[0].message.content == wanted


def test_draft_lengths_where_none_is_asked_for(served_target: Target) -> None:
    """As many as pay, but as trained where a seed is to give the same sampled text again."""
    drafters = {"first": make_drafter(served_target), "second": make_drafter(served_target, 4, seed=2)}

    def length(service: Service, **fields: Any) -> DraftLength | None:
        asked = read_request(ChatRequest, json.dumps({"model": MODEL, "messages": MESSAGES, **fields}).encode())
        return service.jobs(asked, [[1, 2, 3]])[0].drafting.draft_length

    service, fixed = Service(served_target, drafters, Limits()), Service(served_target, drafters, Limits(), 3)
    second, auto = {"paradraft": {"drafter": "second"}}, {"paradraft": {"draft_length": "auto"}}
    assert length(service) == length(service, seed=1, temperature=0) == length(service, **second) == "auto"
    assert length(service, seed=1) == drafters["first"].max_draft and length(service, seed=1, **auto) == "auto"
    assert length(service, seed=1, **second) == drafters["second"].max_draft
    assert length(fixed) == length(fixed, seed=1) == 3 and length(fixed, **second) == "auto"
    assert length(service, paradraft={"drafter": None}) is None
    with pytest.raises(UserError, match="draft length 0 is outside 1 to"):
        Service(served_target, drafters, Limits(), 0)


def test_usage_counts_drafts(server: Running, served_target: Target) -> None:
    prompt = render_prompt(served_target.chat, MESSAGES)
    usage = server.openai.chat.completions.create(**CHAT).usage
    assert usage is not None and usage.completion_tokens_details is not None
    assert usage.prompt_tokens == len(prompt) and usage.total_tokens == len(prompt) + usage.completion_tokens
    drafter = server.service.drafters["first"]
    (generation,) = Engine(served_target, drafter).generate([prompt], 24)
    assert usage.completion_tokens == len(generation.tokens)
    details, rounds = usage.completion_tokens_details, generation.rounds
    assert details.accepted_prediction_tokens == sum(min(r.accepted, r.emitted) for r in rounds)
    assert details.rejected_prediction_tokens == sum(len(r.drafted) - r.accepted for r in rounds)
    plain = server.openai.chat.completions.create(**CHAT, extra_body={"paradraft": {"drafter": None}}).usage
    assert plain is not None and plain.completion_tokens == usage.completion_tokens
    assert (
        plain.completion_tokens_details is not None and plain.completion_tokens_details.accepted_prediction_tokens == 0
    )


def test_completions_of_texts_and_ids(server: Running, served_target: Target) -> None:
    tokenizer = served_target.chat.tokenizer
    texts = ["the dog", "1 2"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    wanted = [offline(served_target, prompt, 9) for prompt in ids]
    create = server.openai.completions.create
    for prompt in (texts, ids):
        found = create(model=MODEL, prompt=prompt, temperature=0, max_tokens=9, n=2)
        assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
        assert [choice.text for choice in found.choices] == [wanted[0], wanted[0], wanted[1], wanted[1]]
    assert create(model=MODEL, prompt=ids[0], temperature=0, max_tokens=9).choices[0].text == wanted[0]
    assert create(model=MODEL, prompt="the dog", temperature=0).usage.completion_tokens == 16  # type: ignore[union-attr]


def test_seeds_and_n(server: Running) -> None:
    def texts(**more: Any) -> list[str | None]:
        asked = CHAT | {"temperature": 1.0, "n": 3} | more
        return [choice.message.content for choice in server.openai.chat.completions.create(**asked).choices]

    first = texts(seed=5)
    assert first == texts(seed=5) and len(set(first)) == 3
    assert first != texts(seed=6) and texts() != texts()
    assert len(texts(temperature=0)) == 3 and len(set(texts(temperature=0))) == 1
    stream = server.openai.chat.completions.create(**CHAT | {"temperature": 1.0}, n=3, seed=5, stream=True)
    streamed = ["", "", ""]
    for chunk in stream:
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == first


def test_stop_strings(server: Running, served_target: Target) -> None:
    """Every cut of the text that can be asked for; streamed text never goes beyond it."""
    whole = offline(served_target, render_prompt(served_target.chat, MESSAGES))
    assert len(whole) > 12
    before = [server.metric("paradraft_answers_total", reason=reason) for reason in ("stop", "cancelled")]
    for begin in range(2, min(len(whole) - 4, 30), 5):
        stop = whole[begin : begin + 4]
        wanted = whole[: whole.index(stop)]
        found = server.openai.chat.completions.create(**CHAT, stop=[stop, "never said"])
        assert found.choices[0].message.content == wanted and found.choices[0].finish_reason == "stop"
        chunks = list(server.openai.chat.completions.create(**CHAT, stop=stop, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted
        assert found.usage is not None and found.usage.completion_tokens <= 24
        asked = CHAT | {"stop": stop, "paradraft": {"rounds": True}}
        reply = server.http.post("/v1/chat/completions", json=asked).json()
        rounds, counts = reply["paradraft"]["rounds"], reply["usage"]["completion_tokens_details"]
        assert sum(one["tokens"] for one in rounds) == reply["usage"]["completion_tokens"]
        assert sum(one["kept"] for one in rounds) == counts["accepted_prediction_tokens"]
        assert sum(one["drafted"] - one["kept"] for one in rounds) == counts["rejected_prediction_tokens"]
    server.wait_until_idle()
    after = [server.metric("paradraft_answers_total", reason=reason) for reason in ("stop", "cancelled")]
    assert after[0] > before[0] and after[1] == before[1]


def test_a_stop_string_among_the_drafts_ends_the_round_there(served_target: Target) -> None:
    """A drafter that is always right: what it drafted behind the end was neither judged nor rejected."""
    copy = VanillaSection(init_from="target", layers=len(served_target.layers), draft_length=6)
    service = Service(served_target, {"right": Vanilla.create(copy, served_target).eval()}, Limits(), 6)
    whole = offline(served_target, render_prompt(served_target.chat, MESSAGES))
    among = 0
    with running(service) as server:
        for begin in range(2, 20, 3):
            asked = CHAT | {"stop": whole[begin : begin + 2], "paradraft": {"rounds": True}}
            reply = server.http.post("/v1/chat/completions", json=asked).json()
            rounds, usage = reply["paradraft"]["rounds"], reply["usage"]
            assert sum(one["tokens"] for one in rounds) == usage["completion_tokens"]
            last = rounds[-1]
            if 0 < last["tokens"] == last["kept"] < last["drafted"]:
                among += 1
                assert (last["judged"], last["rejected"]) == (last["kept"], [])
    assert among > 2


def test_logprobs(server: Running, served_target: Target) -> None:
    chat = server.openai.chat.completions.create(**CHAT, logprobs=True, top_logprobs=3).choices[0]
    assert chat.logprobs is not None and chat.logprobs.content is not None
    said = bytes(b for one in chat.logprobs.content for b in one.bytes or ()).decode("utf-8", "replace")
    specials = re.compile(r"<\|[a-z_0-9]+\|>")
    assert specials.sub("", said) == chat.message.content
    for one in chat.logprobs.content:
        assert one.logprob <= 0 and one.top_logprobs[0].logprob == one.logprob  # greedy: the likeliest
        assert len(one.top_logprobs) == 3
    stream = server.openai.chat.completions.create(**CHAT, logprobs=True, stream=True)
    chunks = [chunk.choices[0].logprobs for chunk in stream]
    streamed = [one.token for found in chunks if found for one in found.content or ()]
    assert streamed == [one.token for one in chat.logprobs.content]
    prompt = served_target.chat.tokenizer("the dog")["input_ids"]
    old = server.openai.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=5, logprobs=2)
    logprobs = old.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.token_logprobs and logprobs.top_logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 5
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:n])) for n in range(5)]


def test_of_tokens_with_one_text_the_likeliest_is_told(served_target: Target) -> None:
    """Parts of a character all read as U+FFFD."""
    tokenizer = served_target.chat.tokenizer
    first, second = [i for i in range(len(tokenizer)) if tokenizer.decode([i]) == "\ufffd"][:2]
    assert by_text(tokenizer, ((first, -0.1), (second, -7.3))) == {"\ufffd": -0.1}


def test_rounds_tell_all_of_the_text(server: Running) -> None:
    asked = CHAT | {"paradraft": {"rounds": True, "drafter": "second", "draft_length": 2}}
    found = server.http.post("/v1/chat/completions", json=asked).json()
    rounds = found["paradraft"]["rounds"]
    text = "".join("".join(one["accepted"]) + one["own"] for one in rounds)
    assert text == found["choices"][0]["message"]["content"]
    assert rounds[0]["prefill"] and not any(one["prefill"] for one in rounds[1:])
    assert all(len(one["rejected"]) == one["drafted"] - one["kept"] for one in rounds[:-1])
    assert {one["drafted"] for one in rounds[1:-1]} <= {1, 2}
    assert sum(one["tokens"] for one in rounds) == found["usage"]["completion_tokens"]
    seconds = [one["seconds"] for one in rounds]
    assert seconds == sorted(seconds) and seconds[-1] > 0


def test_models(server: Running) -> None:
    (model,) = server.openai.models.list().data
    assert model.id == MODEL and server.openai.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        server.openai.models.retrieve("other")
    with pytest.raises(openai.NotFoundError, match="is not served here; tiny is"):
        server.openai.chat.completions.create(**CHAT | {"model": "other"})


def test_paradraft_regenerates_through_it(server: Running, served_target: Target) -> None:
    """The client of `data regenerate --endpoint` sends fields of vLLM's."""
    prompt = render_prompt(served_target.chat, MESSAGES)
    (answer,) = Endpoint(server.url, 12).answer([prompt], 3)
    assert answer.text == served_target.chat.decode(Engine(served_target).generate([prompt], 12)[0].tokens)


def test_metrics_and_health(served_target: Target) -> None:
    with running(make_service(served_target)) as server:
        assert server.http.get("/health").json() == {"status": "ok", "needs_key": False}
        details = server.openai.chat.completions.create(**CHAT).usage
        server.http.post("/v1/completions", json={})
        server.http.get("/nowhere/at/all")
        assert details is not None and details.completion_tokens_details is not None
        text = server.http.get("/metrics").text
        assert 'paradraft_requests_total{endpoint="/v1/chat/completions",status="200"} 1.0' in text
        assert 'paradraft_requests_total{endpoint="/v1/completions",status="400"} 1.0' in text
        assert 'paradraft_requests_total{endpoint="other",status="404"} 1.0' in text
        assert server.metric("paradraft_tokens_total", kind="written") == details.completion_tokens
        assert server.metric("paradraft_tokens_total", kind="read") == details.prompt_tokens
        assert server.metric("paradraft_emitted_length_sum") == details.completion_tokens - 1
        accepted = [server.metric("paradraft_accepted_total", position=str(k)) for k in range(1, 6)]
        assert sum(accepted) == details.completion_tokens_details.accepted_prediction_tokens
        drafted = [server.metric("paradraft_drafted_total", position=str(k)) for k in range(1, 6)]
        assert drafted[0] > 0 and drafted == sorted(drafted, reverse=True)
        for name in ("queue", "first_token", "answer"):
            assert server.metric(f"paradraft_{name}_seconds_count") == 1
        assert "process_resident_memory_bytes" in text
