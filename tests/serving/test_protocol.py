"""Requests that are understood, and one sentence for each that is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paradraft.serving.errors import ApiError
from paradraft.serving.protocol import NEUTRAL, ChatRequest, CompletionRequest, read_request

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}


def refused(kind: Any, body: bytes | dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_request(kind, body if isinstance(body, bytes) else json.dumps(body).encode())
    error = caught.value
    assert error.status == 400 and error.message and "\n" not in error.message
    assert json.dumps(error.body()).isascii()
    return error


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        ('{"model": "m"}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "too deep"),
        (b'{"n": ' + b"9" * 5000 + b"}", "number is too long"),
        (b'{"temperature": NaN}', "NaN is no number"),
        (b'{"temperature": -Infinity}', "-Infinity is no number"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{}", "the field model is missing"),
    ],
)
def test_bodies_that_are_no_request(body: bytes, said: str) -> None:
    assert said in refused(ChatRequest, body).message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 1e-300}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"n": 1.5}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"paradraft": {"draft_length": 0}}, "paradraft.draft_length"),
        ({"paradraft": {"draft_length": "long"}}, "paradraft.draft_length"),
        ({"paradraft": {"colour": 1}}, "paradraft.colour"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"model": None}, "model"),
        ({"max_new_tokens": 4}, "max_new_tokens"),
    ],
)
def test_fields_that_are_wrong(change: dict[str, Any], param: str) -> None:
    for kind, good in ((ChatRequest, CHAT), (CompletionRequest, COMPLETION)):
        assert refused(kind, good | change).param == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
        ({"messages": [5]}, "messages.0"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_chats_that_are_wrong(change: dict[str, Any], param: str) -> None:
    assert refused(ChatRequest, CHAT | change).param == param


@pytest.mark.parametrize("prompt", [None, [], [[]], [1, "a"], [1.5], {"a": 1}, [[1], [True]], ["a", []], 7])
def test_prompts_that_are_wrong(prompt: Any) -> None:
    assert refused(CompletionRequest, {"model": "m", "prompt": prompt}).param == "prompt"


def test_odd_numbers_and_names() -> None:
    assert refused(CompletionRequest, b'{"model": "m", "prompt": "x", "temperature": 1e400}').param == "temperature"
    assert "half of a surrogate pair" in refused(ChatRequest, CHAT | {"\ud800": 1}).message


def test_what_is_understood() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = CHAT | {"messages": [{"role": "developer", "content": parts}], "stop": "x", "temperature": 1, "user": "me"}
    asked = read_request(ChatRequest, json.dumps(body).encode())
    assert asked.messages[0].content == "ab" and asked.stop == ["x"] and asked.temperature == 1
    for prompt, wanted in (("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])):
        found = read_request(CompletionRequest, json.dumps({"model": "m", "prompt": prompt}).encode())
        assert found.prompt == wanted


def test_fields_that_change_nothing_are_taken() -> None:
    """Many clients send every field that they know."""
    for name, values in NEUTRAL.items():
        for value in (None, *values):
            read_request(ChatRequest, json.dumps(CHAT | {name: value}).encode())
    answer = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "tool_calls": None}
    read_request(ChatRequest, json.dumps(CHAT | {"messages": [answer]}).encode())
    assert refused(ChatRequest, CHAT | {"frequency_penalty": False}).param == "frequency_penalty"
