"""A server under load for a while: are answers right, do rows leak, does memory grow, how long does an answer take?

    python -m benchmarks.soak --drafter demo:dflash-dpace --minutes 20 --out benchmarks/results/soak-dflash-dpace.json
    python -m benchmarks.soak --minutes 20 --out benchmarks/results/soak-plain.json

Starts `paradraft serve` on this machine. Each client streams one answer after the other at temperature 0 and compares
it with what the target says offline, without a server or a drafter. A share of the requests is malformed, another
leaves in the middle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.fuzz_server import JSON_TYPE, broken
from benchmarks.serving import metrics, serving, wait_until_idle
from paradraft.decoding import Engine
from paradraft.errors import run_program
from paradraft.evaluation.prompts import load_prompts
from paradraft.models import Target
from paradraft.text.render import render_prompt

PATH = "/v1/chat/completions"
LEAVING = MALFORMED = 0.05  # shares of the requests


@dataclass(frozen=True)
class Question:
    """A prompt, how long its answer may be, and the answer of offline decoding."""

    prompt: str
    max_tokens: int
    answer: str


@dataclass
class Tally:
    """What the clients saw. seconds: of whole answers; first: to their first text."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    wrong: list[dict[str, str]] = field(default_factory=list)


def questions(target: Target, prompts: Sequence[str], limit: int, max_tokens: int) -> list[Question]:
    """Answered by plain decoding, one at a time."""
    found = []
    for name in prompts:
        for prompt in load_prompts(name, limit).prompts:
            ids = render_prompt(target.chat, [{"role": "user", "content": prompt.question}])
            (generation,) = Engine(target).generate([ids], max_tokens)
            text = target.chat.tokenizer.decode(generation.tokens, skip_special_tokens=True)
            found.append(Question(prompt.question, max_tokens, text))
    return found


async def client(url: str, model: str, asked: Sequence[Question], seconds: float, seed: str, tally: Tally) -> None:
    """One client until the time is over; whoever finds the server full comes back when it says."""
    rng, ended = random.Random(seed), time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=url, timeout=600, verify=False) as http:
        while True:
            draw = rng.random()
            if draw < MALFORMED:
                method, path, body, headers = broken(model, rng)
                response = await http.request(method, path, content=body, headers=headers)
                outcome = "malformed, " + ("5xx" if response.status_code >= 500 else "answered")
            else:
                leaves = rng.randint(0, 8) if draw < MALFORMED + LEAVING else None
                outcome = await ask(http, model, rng.choice(asked), leaves, tally)
            tally.outcomes[outcome] += 1
            if time.monotonic() > ended:
                return


async def ask(http: httpx.AsyncClient, model: str, question: Question, leaves: int | None, tally: Tally) -> str:
    """Stream one answer, or leave after `leaves` chunks; what came of it."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question.prompt}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stream": True,
    }
    began, first, text, chunks = time.monotonic(), None, "", 0
    async with http.stream("POST", PATH, content=json.dumps(body).encode(), headers=JSON_TYPE) as response:
        if response.status_code == 429:
            await asyncio.sleep(float(response.headers["retry-after"]))
            return "full"
        if response.status_code != 200:
            return f"status {response.status_code}"
        async for line in response.aiter_lines():
            if chunks == leaves:
                return "left"
            if not line.startswith("data: {"):
                continue
            chunks += 1
            event = json.loads(line[6:])
            if "error" in event:
                return "error in the stream"
            text += event["choices"][0]["delta"].get("content", "")
            first = first or (time.monotonic() if text else None)
    tally.seconds.append(time.monotonic() - began)
    tally.first.append((first or time.monotonic()) - began)
    if text != question.answer:
        tally.wrong.append({"prompt": question.prompt, "offline": question.answer, "served": text})
        return "wrong"
    return "right"


async def soak(
    url: str, model: str, asked: Sequence[Question], seconds: float, clients: int, every: float = 10.0, seed: int = 0
) -> tuple[Tally, list[dict[str, float]]]:
    """Run the clients; what they saw, and samples of the server's memory, the last one when all have ended."""
    tally, samples, began = Tally(), list[dict[str, float]](), time.monotonic()
    work = [asyncio.ensure_future(client(url, model, asked, seconds, f"{seed} {i}", tally)) for i in range(clients)]

    async def sample() -> None:
        seconds, found = round(time.monotonic() - began, 1), await asyncio.to_thread(metrics, url)
        resident = found.get("process_resident_memory_bytes", 0.0)
        samples.append({"seconds": seconds, "resident_mib": round(resident / 2**20, 1)})

    while not all(one.done() for one in work):
        await sample()
        await asyncio.wait(work, timeout=every)
    await asyncio.gather(*work)
    await sample()
    return tally, samples


def summary(tally: Tally, samples: list[dict[str, float]], before: dict[str, float], after: dict[str, float]) -> Any:
    """The figures of a soak; throughput from the server's own counters."""

    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    def percentiles(values: list[float]) -> dict[str, float]:
        return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 95)} if values else {}

    lasted = samples[-1]["seconds"]
    warm = [one for one in samples if one["seconds"] >= lasted / 5] or samples
    rounds = grown("paradraft_emitted_length_count")
    return {
        "outcomes": dict(tally.outcomes),
        "wrong": tally.wrong[:20],
        "answer_seconds": percentiles(tally.seconds),
        "first_text_seconds": percentiles(tally.first),
        "tokens_per_second": round(grown('paradraft_tokens_total{kind="written"}') / lasted, 1),
        "emitted_length": round(grown("paradraft_emitted_length_sum") / rounds, 3) if rounds else None,
        "cancelled_by_the_server": grown('paradraft_answers_total{reason="cancelled"}'),
        "resident_mib": {
            "start": samples[0]["resident_mib"],
            "warm": warm[0]["resident_mib"],
            "end": samples[-1]["resident_mib"],
            "most": max(one["resident_mib"] for one in samples),
        },
        "growth_after_warming": round(samples[-1]["resident_mib"] / max(warm[0]["resident_mib"], 1e-9) - 1, 4),
        "seconds": lasted,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="demo")
    parser.add_argument("--drafter", default=None)
    parser.add_argument("--draft-length", default=None)
    parser.add_argument("--prompts", nargs="+", default=["demo:math", "demo:code", "demo:chat"])
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = Target.load(arguments.target)
    asked = questions(target, arguments.prompts, arguments.limit, arguments.max_tokens)
    options = ["--target", arguments.target, "--threads", arguments.threads]
    if arguments.drafter is not None:
        options += ["--drafter", arguments.drafter]
    if arguments.draft_length is not None:
        options += ["--draft-length", arguments.draft_length]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with serving(options, log) as (url, _):
            before = metrics(url)
            minutes = arguments.minutes * 60
            tally, samples = asyncio.run(soak(url, target.name, asked, minutes, arguments.clients))
            leaked, after = wait_until_idle(url), metrics(url)
        tracebacks = log.read_text(encoding="utf-8").count("Traceback")
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    figures = summary(tally, samples, before, after)
    found = {"settings": settings, "cores": os.cpu_count(), **figures, "rows_leaked": leaked, "tracebacks": tracebacks}
    print(json.dumps(found, indent=1))
    arguments.out.write_text(json.dumps({**found, "samples": samples}, indent=1) + "\n", encoding="utf-8")
    if tally.wrong or leaked or tracebacks:
        raise SystemExit(1)


if __name__ == "__main__":
    run_program("soak.py", main)
