"""Make the shipped prompt sets and training text: `python -m demo_target.make_data --target DIR --out ASSETS`.

Prompt sets are held-out prompts of the families with their checked results. The training text is written by the
target itself on training prompts, half of it greedily and half sampled at temperature 1.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import time
from pathlib import Path

from paradraft.decoding import Engine, Sampling
from paradraft.models import Target
from paradraft.models.chat import load_chat
from paradraft.text.loops import is_looping
from paradraft.text.provenance import Provenance, TargetIdentity, fingerprint, write_provenance
from paradraft.text.render import render_prompt

from .corpus import generated_conversations
from .families import FAMILIES, examples

PROMPTS_SEED = 31
TRAINING_SEED = 7
ANSWER_TOKENS = 256
ROWS = 64


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
    tokenizer = target.chat.tokenizer
    prompts = [prompt for prompt, _ in itertools.islice(generated_conversations(TRAINING_SEED), count)]
    records: dict[int, str] = {}
    started = time.time()
    for half, temperature in enumerate((0.0, 1.0)):
        engine = Engine(target, sampling=Sampling(temperature), seed=TRAINING_SEED)
        numbers = sorted(range(half, count, 2), key=lambda i: len(prompts[i]))  # like lengths together
        for start in range(0, len(numbers), ROWS):
            part = numbers[start : start + ROWS]
            asked = [render_prompt(target.chat, [{"role": "user", "content": prompts[i]}]) for i in part]
            for i, answer in zip(part, engine.generate(asked, ANSWER_TOKENS), strict=True):
                if answer.stopped and not is_looping(answer.tokens):
                    text = tokenizer.decode(answer.tokens, skip_special_tokens=True)
                    messages = [{"role": "user", "content": prompts[i]}, {"role": "assistant", "content": text}]
                    records[i] = json.dumps({"messages": messages, "temperature": temperature})
            print(f"{len(records)} of {count} answers, {time.time() - started:.0f} s", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress("".join(records[i] + "\n" for i in sorted(records)).encode(), mtime=0)
    path.write_bytes(packed)


def describe_answers(target: Path, path: Path) -> None:
    """Say beside the training text whose it is; the target is known by its weights, wherever it lies."""
    chat, _ = load_chat(str(target))
    details = {
        "temperature": "0 for every other conversation, 1 for the rest",
        "max_new_tokens": ANSWER_TOKENS,
        "seed": TRAINING_SEED,
        "left_out": "answers that loop or do not end",
    }
    identity = TargetIdentity("demo", None, fingerprint(target))
    write_provenance(path, Provenance(identity, chat.template_hash, None, details))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets")
    parser.add_argument("--prompts", type=int, default=100, help="of each family")
    parser.add_argument("--conversations", type=int, default=8000, help="0: keep the answers that are there")
    arguments = parser.parse_args()
    write_prompts(arguments.out / "prompts", arguments.prompts)
    answers = arguments.out / "data" / "train.jsonl.gz"
    if arguments.conversations:
        write_answers(Target.load(str(arguments.target)), answers, arguments.conversations)
    describe_answers(arguments.target, answers)


if __name__ == "__main__":
    main()
