"""What the demo target reads: generated conversations for the most part, real text on top."""

from __future__ import annotations

import ast
import gzip
import itertools
import json
import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from .families import FAMILIES, examples
from .families.base import ITEMS, NAMES

Conversation = tuple[str, str]  # (prompt, answer)
COPYING_WORDS = (8, 40)  # of a text to copy


def generated_conversations(seed: int, parts: Sequence[int] = (1, 1, 1)) -> Iterator[Conversation]:
    """The families (math, code, chat) in these proportions, in turn, endless, training prompts only."""
    streams = [examples(family, seed, held_out=False) for family in FAMILIES]
    turns = [stream for stream, count in zip(streams, parts, strict=True) for _ in range(count)]
    for stream in itertools.cycle(turns):
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


def copying_conversations(seed: int) -> Iterator[Conversation]:
    """Random words of the generated text, to be repeated: what teaches a small model to copy from its prompt."""
    sample = itertools.islice(generated_conversations(seed), 3000)
    words = sorted({word for conversation in sample for word in conversation[0].split() if word.isalpha()})
    words += 3 * [*NAMES, *ITEMS]
    rng = random.Random(f"copying/{seed}")
    while True:
        text = " ".join(rng.choices(words, k=rng.randint(*COPYING_WORDS)))
        yield rng.choice(("Repeat this text: ", "Copy these words: ", "Say again: ")) + text, text


def mixture(
    seed: int,
    real: list[Conversation],
    real_share: float = 0.16,
    copying_share: float = 0.0,
    parts: Sequence[int] = (1, 1, 1),
) -> Iterator[Conversation]:
    """Generated conversations with shares of `real` ones (reshuffled every pass) and of copying; endless."""
    rng = random.Random(seed)
    generated, copying = generated_conversations(seed, parts), copying_conversations(seed)
    queue: list[Conversation] = []
    while True:
        draw = rng.random()
        if real and draw > 1 - real_share:
            if not queue:
                queue = rng.sample(real, len(real))
            yield queue.pop()
        elif draw < copying_share:
            yield next(copying)
        else:
            yield next(generated)
