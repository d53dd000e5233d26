"""What the demo target reads: generated conversations for the most part, real text on top."""

from __future__ import annotations

import ast
import gzip
import itertools
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .families import FAMILIES, examples

Conversation = tuple[str, str]  # (prompt, answer)
GENERATED_SHARE = 0.84


def generated_conversations(seed: int) -> Iterator[Conversation]:
    """The three families in equal parts, endless, training prompts only."""
    streams = [examples(family, seed, held_out=False) for family in FAMILIES]
    for stream in itertools.cycle(streams):
        _, example = next(stream)
        yield example.prompt, example.answer


def read_conversations(path: Path) -> list[Conversation]:
    """First question and answer of every `{"messages": [...]}` line; `path` may be gzipped."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [(record["messages"][0]["content"], record["messages"][1]["content"]) for record in records]


def library_conversations(longest: int = 700) -> list[Conversation]:
    """Documented functions of the installed standard library (PSF licence), asked for by name and docstring."""
    conversations = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="ignore")
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef) or not (docstring := ast.get_docstring(node)):
                continue
            text = ast.unparse(node)
            if text.isascii() and len(text) <= longest:
                prompt = f"Write a Python function `{node.name}`: {docstring.splitlines()[0]}"
                conversations.append((prompt, f"```python\n{text}\n```"))
    return conversations


def mixture(seed: int, real: list[Conversation]) -> Iterator[Conversation]:
    """Generated conversations with a share of `real` ones in between, reshuffled every pass; endless."""
    rng = random.Random(seed)
    generated = generated_conversations(seed)
    queue: list[Conversation] = []
    while True:
        if real and rng.random() > GENERATED_SHARE:
            if not queue:
                queue = rng.sample(real, len(real))
            yield queue.pop()
        else:
            yield next(generated)
