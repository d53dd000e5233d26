"""Host memory of the training text in one process, in bytes a token: what stays, and the most while it is prepared.

    python benchmarks/host_memory.py [--texts 2500] [--packing]

Texts of about 2,000 tokens are made of the answers of demo:train; the target is the demo's.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path

import psutil

from paradraft.config import DataSection
from paradraft.models import Target
from paradraft.text.prepare import prepare_examples
from paradraft.text.provenance import identify
from paradraft.text.sources import read_source

ANSWERS = 20  # in a text


def write_texts(path: Path, count: int) -> None:
    """JSONL of `count` conversations of one turn."""
    answers = [conversation.messages[-1]["content"] for conversation in read_source("demo:train").conversations]
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            parts = [answers[(7 * i + j) % len(answers)] for j in range(ANSWERS)]
            file.write(json.dumps({"prompt": "Go on.", "response": " ".join(parts)}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2500)
    parser.add_argument("--packing", action="store_true")
    asked = parser.parse_args()
    target = Target.load("demo")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "texts.jsonl"
        write_texts(path, asked.texts)
        before = psutil.Process().memory_info().rss
        section = DataSection(train=(str(path),), max_length=3072, packing=asked.packing, looping="keep")
        examples = prepare_examples(section, target, identify("demo"), 0).examples
    tokens = sum(len(example.input_ids) for example in examples)
    arrays = [(e.input_ids, e.loss_mask, e.document_ids) for e in examples]
    held = sum(array.nbytes for three in arrays for array in three if array is not None)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before  # kilobytes, on Linux
    print(f"{tokens:,} tokens: arrays of {held / tokens:.1f} bytes a token, {most / tokens:.1f} at most")


if __name__ == "__main__":
    main()
