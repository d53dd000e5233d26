"""Answers from an OpenAI-compatible server (vLLM, SGLang): /v1/completions with the token ids that training renders.

The prompt goes over as ids, so the server's own chat template has no say and a start token is never doubled.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from ..errors import UserError
from .answers import Answer, RefusedPrompt

# vLLM and SGLang fill what a request leaves out from the model's generation_config.json, even at temperature 0.
PLAIN = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
OF_THE_PROMPT = {400, 413, 422}  # states that may be due to this prompt alone
PASSING = {408, 409, 425, 429, 500, 502, 503, 504}  # states of a server that a later attempt may not meet


@dataclass
class Endpoint:
    """One server. `url` with or without /v1; `model` as the server calls it, None: the only one it serves.

    stop_texts: the stop tokens as text, removed from the end of an answer where a server leaves them.
    key_variable: the environment variable that holds the key, if one is needed. Threads may share an Endpoint.
    """

    url: str
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    model: str | None = None
    stop_texts: tuple[str, ...] = ()
    key_variable: str | None = None
    attempts: int = 8
    timeout: float = 600.0
    sleep: Callable[[float], object] | None = field(default=None, repr=False)  # None: until given up

    def __post_init__(self) -> None:
        headers = {}
        if self.key_variable is not None:
            if not os.environ.get(self.key_variable):
                raise UserError(f"the environment variable {self.key_variable} is not set; put the server's key in it")
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        self.base = self.url.rstrip("/").removesuffix("/v1") + "/v1"
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"{self.url} is no URL of a server; give one such as http://localhost:8000")
        self.client = httpx2.Client(timeout=httpx2.Timeout(self.timeout, connect=10), headers=headers, limits=limits)
        self.lost = threading.Event()
        self.served = self._served_model()
        self.model = str(self.served["id"])

    def _served_model(self) -> dict[str, Any]:
        """The server's entry for the model: the one named, or the only one."""
        listed = self._call("GET", "/models", None).get("data")
        served = {str(entry.get("id")): entry for entry in listed or [] if isinstance(entry, dict)}
        name = self.model or (next(iter(served)) if len(served) == 1 else None)
        if name not in served:
            raise UserError(f"{self.url} serves {', '.join(served) or 'no model'}; name one of them with --model")
        return dict(served[str(name)])

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together, where the server says (vLLM does)."""
        length = self.served.get("max_model_len")
        return length if isinstance(length, int) else None

    def give_up(self) -> None:
        """Let the threads that wait for this server end at once."""
        self.lost.set()
        self.client.close()

    def answer(self, prompts: Sequence[Sequence[int]], seed: int) -> list[Answer]:
        return [self._answer_one(prompt, seed) for prompt in prompts]

    def _answer_one(self, prompt: Sequence[int], seed: int) -> Answer:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k or -1,  # off for every server; some refuse 0
            **PLAIN,
            "seed": seed,
            "skip_special_tokens": False,  # thoughts and calls may be written in special tokens
        }
        reply = self._call("POST", "/completions", body)
        try:
            choice = reply["choices"][0]
            text, reason = str(choice["text"]), choice["finish_reason"]
            tokens = int((reply.get("usage") or {}).get("completion_tokens") or 0)
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(f"{self.url} does not answer like an OpenAI server (no {error} in its reply)") from None
        if reason not in ("stop", "length"):
            raise UserError(f"{self.url} ended an answer with {reason!r}; check the server's log")
        for stop in self.stop_texts:
            text = text.removesuffix(stop)
        return Answer(text, tokens, reason == "stop")

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The reply's JSON; passing failures are tried again after 0.5, 1, 2, ... seconds, at most 30."""
        problem, pause = "", 0.0
        for attempt in range(self.attempts):
            if attempt:
                (self.sleep or self.lost.wait)(pause)
            if self.lost.is_set():
                break
            pause = min(30.0, 0.5 * 2**attempt)
            try:
                response = self.client.request(method, self.base + path, json=body)
            except httpx2.InvalidURL as error:
                raise UserError(f"{self.url} is no URL of a server ({error})") from None
            except httpx2.RequestError as error:
                problem = str(error) or type(error).__name__
                continue
            except RuntimeError:  # the client was closed by give_up
                break
            if response.status_code in PASSING:
                problem = f"status {response.status_code}"
                pause = max(pause, wished(response))
                continue
            if response.status_code >= 400:
                kind = RefusedPrompt if body is not None and response.status_code in OF_THE_PROMPT else UserError
                raise kind(f"{self.url} refuses the request with status {response.status_code}: {said(response)}")
            return parsed(response, self.url)
        self.lost.set()  # the other threads need not find out one by one
        raise UserError(
            f"{self.url} does not answer ({problem or 'it failed for another request'}, {self.attempts} attempts); "
            "start the server and run the same command again: what is answered is kept"
        )


def wished(response: httpx2.Response) -> float:
    """Seconds to wait that a server asks for, at most two minutes."""
    asked = response.headers.get("retry-after", "")
    return min(120.0, float(asked)) if asked.isdigit() else 0.0


def said(response: httpx2.Response) -> str:
    """What the server says of its refusal, in a line."""
    return " ".join(response.text.split())[:300] or "it says nothing more"


def parsed(response: httpx2.Response, url: str) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{url} does not answer like an OpenAI server (its reply is no JSON object)")
    return found
