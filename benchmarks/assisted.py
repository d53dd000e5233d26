"""An outside reference: Transformers' own assisted generation with the same plain draft model, target and prompts.

python benchmarks/assisted.py --out benchmarks/results/assisted.json

Greedy, one prompt at a time, the ways in turn on every prompt. Times are whole calls, prefill included, since
Transformers does not tell them apart; speed-ups are therefore lower than those of `paradraft eval`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from paradraft.commands.pair import load_pair
from paradraft.decoding import Engine
from paradraft.evaluation.measure import environment, first_turn_ids
from paradraft.evaluation.prompts import load_prompts
from paradraft.files import write_text

SETS = ("demo:math", "demo:code", "demo:chat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafter", default="demo:vanilla")
    parser.add_argument("--draft-length", type=int, default=4)
    parser.add_argument("--limit", type=int, default=20, help="prompts of each set")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    target, drafters = load_pair("demo", [arguments.drafter], "float32", trust_remote_code=False)
    drafter: Any = drafters[arguments.drafter]
    limit = arguments.max_new_tokens
    drafter.model.generation_config.num_assistant_tokens = arguments.draft_length
    drafter.model.generation_config.num_assistant_tokens_schedule = "constant"
    drafter.model.generation_config.assistant_confidence_threshold = 0.0
    engines = (Engine(target), Engine(target, drafter, draft_length=arguments.draft_length))

    def ours(engine: Engine) -> Callable[[list[int]], list[int]]:
        return lambda prompt: engine.generate([prompt], limit)[0].tokens

    def theirs(assistant: Any) -> Callable[[list[int]], list[int]]:
        def generate(prompt: list[int]) -> list[int]:
            ids = torch.tensor([prompt])
            output = target.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                do_sample=False,
                assistant_model=assistant,
            )
            return [int(token) for token in output[0, len(prompt) :]]

        return generate

    ways = {
        "paradraft plain": ours(engines[0]),
        "paradraft drafted": ours(engines[1]),
        "transformers plain": theirs(None),
        "transformers assisted": theirs(drafter.model),
    }
    prompts = [ids for name in SETS for ids in first_turn_ids(target, load_prompts(name, arguments.limit))]
    seconds = dict.fromkeys(ways, 0.0)
    tokens, different = 0, dict.fromkeys(ways, 0)
    for number, prompt in enumerate([prompts[0], *prompts]):  # the first is a warm-up
        answers = {}
        for name, generate in ways.items():
            started = time.perf_counter()
            answers[name] = generate(prompt)
            if number:
                seconds[name] += time.perf_counter() - started
        if number:
            tokens += len(answers["paradraft plain"])
            for name, answer in answers.items():
                different[name] += answer != answers["paradraft plain"]
    runs = [
        {
            "way": name,
            "tokens_per_second": tokens / seconds[name],
            "speedup_over_own_plain": seconds[f"{name.split()[0]} plain"] / seconds[name],
            "texts_that_differ_from_plain": different[name],
        }
        for name in ways
    ]
    for run in runs:
        print(run)
    if arguments.out:
        facts = {"drafter": arguments.drafter, "draft_length": arguments.draft_length, "prompts": len(prompts)}
        results = {**facts, "max_new_tokens": limit, "runs": runs, "environment": environment(target)}
        write_text(arguments.out, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
