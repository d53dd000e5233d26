"""Examine the demo target on held-out prompts: `python -m demo_target.examine [--target DIR] [--json FILE]`.

For every family and temperature: the share of answers that end by themselves within 256 tokens without looping,
and the share whose final answer is right. Criteria: 95% end (greedy and sampled), 80% right (greedy).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from paradraft.decoding import Engine, Sampling
from paradraft.models import Target
from paradraft.text.loops import is_looping
from paradraft.text.render import render_prompt

from .families import FAMILIES, examples, is_right

ANSWER_TOKENS = 256


def examine(target: Target, family: str, temperature: float, count: int, seed: int) -> dict[str, object]:
    """Answer `count` held-out prompts, every template in turn; counts by template of what went wrong."""
    asked = list(itertools.islice(examples(family, seed, held_out=True), count))
    engine = Engine(target, sampling=Sampling(temperature), seed=seed)
    ended = looping = right = 0
    wrong: dict[str, int] = defaultdict(int)
    for start in range(0, count, 32):
        part = asked[start : start + 32]
        prompts = [render_prompt(target.chat, [{"role": "user", "content": example.prompt}]) for _, example in part]
        for (template, example), answer in zip(part, engine.generate(prompts, ANSWER_TOKENS), strict=True):
            loops = is_looping(answer.tokens)
            looping += loops
            ended += answer.stopped and not loops
            written = answer.tokens[:-1] if answer.stopped else answer.tokens
            correct = is_right(target.chat.decode(written), example.final)
            right += correct
            wrong[template] += not correct
    return {
        "family": family,
        "temperature": temperature,
        "prompts": count,
        "ended": ended / count,
        "looping": looping / count,
        "right": right / count,
        "wrong_by_template": {name: n for name, n in sorted(wrong.items(), key=lambda item: -item[1]) if n},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="demo")
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts per family")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    target = Target.load(arguments.target)
    table = Table("family", "temperature", "prompts", "ended, no loop", "looping", "right", "most wrong")
    results = []
    for temperature, family in itertools.product(arguments.temperatures, FAMILIES):
        result = examine(target, family, temperature, arguments.prompts, arguments.seed)
        results.append(result)
        wrong = result["wrong_by_template"]
        assert isinstance(wrong, dict)
        shares = [f"{result[name]:.1%}" for name in ("ended", "looping", "right")]
        most = ", ".join(f"{name} {n}" for name, n in itertools.islice(wrong.items(), 5))
        table.add_row(family, str(temperature), str(arguments.prompts), *shares, most)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
