"""Make the shipped prompt sets and training text: `python -m demo_target.make_data --target DIR --out ASSETS`.

Prompt sets are held-out prompts of the families with their checked results. The training text is written by the
target itself on training prompts, half of it greedily and half sampled at temperature 1.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from paradraft.decoding import Engine, Sampling
from paradraft.decoding.answerer import EmbeddedAnswerer
from paradraft.models import Target
from paradraft.models.names import ASSETS
from paradraft.text.answers import Answer, Job, answer_unit, plan_units
from paradraft.text.conversations import Conversation
from paradraft.text.loops import is_looping
from paradraft.text.provenance import Provenance, TargetIdentity, fingerprint, write_provenance

from .corpus import generated_conversations
from .families import FAMILIES, examples

PROMPTS_SEED = 31
TRAINING_SEED = 7
ANSWER_TOKENS = 256
ROWS = 64


class LoopsAreCut(EmbeddedAnswerer):
    """An answer that loops counts as one that did not end."""

    def answer(self, prompts: Sequence[Sequence[int]], seed: int) -> list[Answer]:
        answers = super().answer(prompts, seed)
        return [replace(a, stopped=a.stopped and not is_looping(a.token_ids or ())) for a in answers]


def write_prompts(directory: Path, count: int) -> None:
    """One file a family: `{"id", "task", "turns", "reference"}` a line."""
    directory.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        lines = []
        for i, (template, example) in enumerate(itertools.islice(examples(family, PROMPTS_SEED, held_out=True), count)):
            record = {"id": f"{family}/{i}", "task": template, "turns": [example.prompt], "reference": example.final}
            lines.append(json.dumps(record) + "\n")
        (directory / f"{family}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_answers(target: Target, path: Path, count: int) -> None:
    """The target's own answers, as conversations; answers that loop or do not end are left out."""
    prompts = [prompt for prompt, _ in itertools.islice(generated_conversations(TRAINING_SEED), count)]
    asked = [Conversation(({"role": "user", "content": prompt},)) for prompt in prompts]
    job = Job(asked, target.chat, target.context_length - ANSWER_TOKENS, TRAINING_SEED)
    lines: dict[int, str] = {}
    for half, temperature in enumerate((0.0, 1.0)):
        answerer = LoopsAreCut(Engine(target, sampling=Sampling(temperature)), ANSWER_TOKENS)
        for unit in plan_units([len(prompt) for prompt in prompts[half::2]], ROWS):
            for number, record, _ in answer_unit(job, [half + 2 * i for i in unit], answerer):
                if record is not None and record["finish_reason"] == "stop":
                    lines[number] = json.dumps({"messages": record["messages"], "temperature": temperature}) + "\n"
            print(f"{len(lines)} of {count} answers", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(lines[i] for i in sorted(lines)).encode(), mtime=0))


def describe_answers(directory: Path, target: Target, path: Path) -> None:
    """Say beside the training text whose it is; the target is known by its weights, wherever it lies."""
    details = {
        "temperature": "0 for every other conversation, 1 for the rest",
        "max_new_tokens": ANSWER_TOKENS,
        "seed": TRAINING_SEED,
        "left_out": "answers that loop or do not end",
    }
    identity = TargetIdentity("demo", None, fingerprint(directory))
    write_provenance(path, Provenance(identity, target.chat.template_hash, None, details))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ASSETS / "demo")
    parser.add_argument("--prompts", type=int, default=100, help="of each family")
    parser.add_argument("--conversations", type=int, default=8000, help="0: keep the answers that are there")
    asked = parser.parse_args(arguments)
    write_prompts(asked.out / "prompts", asked.prompts)
    answers, target = asked.out / "data" / "train.jsonl.gz", Target.load(str(asked.target))
    if asked.conversations:
        write_answers(target, answers, asked.conversations)
    describe_answers(asked.target, target, answers)


if __name__ == "__main__":
    main()
