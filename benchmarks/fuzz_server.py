"""Thousands of broken requests: no 5xx, no traceback, no path of this machine, and the server as good as before.

    python -m benchmarks.fuzz_server --count 2000 --out benchmarks/results/fuzz-server.json

Starts `paradraft serve` on this machine and writes how many requests got which status.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving import serving, wait_until_idle

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 1.5, -0.5, 1e308, 10**30, -(2**63) - 1, 2**31),
    *("", " ", "auto", "null", "\x00", "\ud800", "é" * 50, "x" * 5000, "🙂", "../../etc/passwd", "%s%n{0}"),
    *([], {}, [[]], [None], ["a", 1], [-1], [10**9], [[1, 2], [3]], {"a": {"b": []}}, {"include_usage": 1}),
)
FIELDS = (
    *(
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "n",
        "seed",
    ),
    *("stop", "stream", "stream_options", "logprobs", "top_logprobs", "tools", "logit_bias", "response_format", "user"),
    *("presence_penalty", "frequency_penalty", "best_of", "echo", "suffix", "paradraft", "skip_special_tokens", "odd"),
)
PATHS = ("/v1/chat/completions", "/v1/completions")
JSON_TYPE = {"content-type": "application/json"}
FORBIDDEN = ("Traceback", "site-packages", ".py", "/home", "/root", "/usr", "/tmp", "/work")


def good(model: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A request that works."""
    body: dict[str, Any] = {"model": model, "max_tokens": rng.randint(1, 6), "temperature": rng.choice([0, 0.7])}
    if rng.random() < 0.5:
        return PATHS[0], body | {"messages": [{"role": "user", "content": "hello"}]}
    return PATHS[1], body | {"prompt": "hello"}


def broken(model: str, rng: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """Method, path, body and headers of a request that is probably wrong."""
    path, body = good(model, rng)
    kind = rng.randrange(10)
    if kind <= 4:  # one field or two
        for _ in range(rng.randint(1, 2)):
            field = rng.choice(FIELDS)
            if rng.random() < 0.15:
                body.pop(field, None)
            else:
                body[field] = rng.choice(JUNK)
        return "POST", path, json.dumps(body).encode(), JSON_TYPE
    if kind == 5:  # inside the messages
        message = {"role": rng.choice(["user", "robot", "system"]), "content": "hi"}
        message[rng.choice(["role", "content", "name", "tool_calls"])] = rng.choice(JUNK)
        return "POST", PATHS[0], json.dumps(body | {"messages": [message]}).encode(), JSON_TYPE
    raw = bytearray(json.dumps(body).encode())
    if kind == 6:  # the bytes
        for _ in range(rng.randint(1, 8)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return "POST", path, bytes(raw[: rng.randint(0, len(raw))]), JSON_TYPE
    if kind == 7:  # sizes
        deep = b"[" * rng.choice([10, 2000, 60_000])
        number = b'{"seed": ' + b"7" * 6000 + b"}"
        long = json.dumps(body | {"prompt": "word " * rng.choice([2000, 40_000])}).encode()
        return "POST", PATHS[1], rng.choice([deep, number, long, b"\x00" * 1000, b'{"a": NaN}']), JSON_TYPE
    if kind == 8:  # headers
        headers = {"content-type": rng.choice(["text/plain", "", "application/xml", "multipart/form-data; boundary=x"])}
        return "POST", path, bytes(raw), headers | {"authorization": rng.choice(["", "Bearer", "Basic eDp5"])}
    odd = ["/v1", "/v1/", "/v1/models/%00", "/..%2f..%2fetc/passwd", "/v2/chat/completions", "/page.js/..", *PATHS]
    return rng.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]), rng.choice(odd), bytes(raw), JSON_TYPE


def judge(response: httpx.Response) -> str | None:
    """What is wrong with an answer, if anything."""
    if response.status_code >= 500:
        return f"status {response.status_code}"
    text = response.text
    if response.status_code >= 400 and response.request.method != "HEAD":
        try:
            error = response.json()["error"]
            if set(error) != {"message", "type", "param", "code"} or not error["message"]:
                return f"not an error of OpenAI's: {text[:200]}"
        except (ValueError, KeyError, TypeError):
            return f"not an error of OpenAI's: {text[:200]}"
        if any(word in text for word in FORBIDDEN):
            return f"says too much: {text[:200]}"
    return None


async def fuzz(url: str, model: str, count: int, seed: int = 0, workers: int = 8) -> dict[str, Any]:
    """Send `count` requests; statuses, and every request that was answered wrongly."""
    numbers = iter(range(count))
    statuses: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []

    async def work(client: httpx.AsyncClient) -> None:
        for number in numbers:
            method, path, body, headers = broken(model, random.Random(f"{seed} {number}"))
            try:
                response = await client.request(method, path, content=body, headers=headers)
            except httpx.HTTPError as error:
                wrong.append({"number": number, "problem": repr(error), "body": repr(body[:300])})
                continue
            statuses[str(response.status_code)] += 1
            problem = judge(response)
            if problem is not None:
                wrong.append({"number": number, "problem": problem, "path": path, "body": repr(body[:300])})

    async with httpx.AsyncClient(base_url=url, timeout=120, verify=False) as client:
        before = await reference(client, model)
        await asyncio.gather(*(work(client) for _ in range(workers)))
        after = await reference(client, model)
    return {"count": count, "statuses": dict(sorted(statuses.items())), "wrong": wrong, "same_after": before == after}


async def reference(client: httpx.AsyncClient, model: str) -> str:
    """The greedy answer to one good request."""
    _, body = good(model, random.Random(1))
    asked = copy.deepcopy(body) | {"prompt": "hello", "temperature": 0, "max_tokens": 20}
    asked.pop("messages", None)
    response = await client.post(PATHS[1], json=asked)
    return str(response.json()["choices"][0]["text"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="demo")
    parser.add_argument("--drafter", default="demo:dflash-dpace")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        options = [
            "--target",
            arguments.target,
            "--drafter",
            arguments.drafter,
            "--max-length",
            "128",
            "--threads",
            "1",
        ]
        with serving(options, log) as (url, _):
            model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
            found = asyncio.run(fuzz(url, model, arguments.count, arguments.seed))
            found["rows_leaked"] = wait_until_idle(url)
        found["tracebacks"] = log.read_text(encoding="utf-8").count("Traceback")
    print(json.dumps(found, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if found["wrong"] or found["tracebacks"] or found["rows_leaked"] or not found["same_after"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
