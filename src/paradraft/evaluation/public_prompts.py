"""Public benchmarks as prompt sets: fetched from the Hub at a pinned revision, worded as in the DFlash papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UserError, first_line

Record = dict[str, Any]

STEP_BY_STEP = "\nPlease reason step by step, and put your final answer within \\boxed{}."
PROGRAMMER = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests. You will NOT return anything except "
    "for the program"
)


@dataclass(frozen=True)
class PublicSet:
    """turns: from a record of `split` to its user turns. file: the JSONL file to read, if not the data set itself."""

    id: str
    revision: str
    licence: str
    turns: Callable[[Record], list[str]]
    subset: str | None = None
    split: str = "test"
    file: str | None = None

    @property
    def source(self) -> str:
        where = f"{self.id}@{self.revision}"
        return f"{where}/{self.file}" if self.file else where


def livecodebench_question(record: Record) -> list[str]:
    if record.get("starter_code"):
        form = f"Use the following code structure:\n```python\n{record['starter_code']}\n```"
    else:
        form = "Write your code in the following format:\n```python\n# YOUR CODE HERE\n```"
    question = f"### Question:\n{record['question_content']}\n\n### Format: {form}"
    return [f"{PROGRAMMER}\n\n{question}\n\n### Answer: (use the provided format with backticks)"]


def humaneval_question(record: Record) -> list[str]:
    task = "Write a solution to the following problem and make sure that it passes the tests:"
    return [f"{task}\n```python\n{record['prompt']}\n```"]


PUBLIC = {
    "gsm8k": PublicSet(
        "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "MIT", lambda r: [r["question"]], subset="main"
    ),
    "math500": PublicSet(
        "HuggingFaceH4/MATH-500",
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        "MIT",
        lambda r: [r["problem"] + STEP_BY_STEP],
    ),
    "humaneval": PublicSet(
        "openai/openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544", "MIT", humaneval_question
    ),
    "mbpp": PublicSet(
        "google-research-datasets/mbpp",
        "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
        "CC BY 4.0",
        lambda r: [r["prompt"]],
        subset="sanitized",
    ),
    "mt-bench": PublicSet(
        "HuggingFaceH4/mt_bench_prompts",
        "e3a795c5e9a82ee40611c416b8a7786c73198991",
        "Apache-2.0",
        lambda r: list(r["prompt"]),
        split="train",
    ),
    "livecodebench": PublicSet(
        "livecodebench/code_generation_lite",
        "0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
        "MIT, problem texts belong to their sites",
        livecodebench_question,
        split="train",
        file="test6.jsonl",  # the problems that release 6 added; the data set's own script no longer runs
    ),
}


def fetch_turns(name: str, limit: int | None) -> list[list[str]]:
    """The turns of each prompt of a public set, or of its first `limit`; UserError if it cannot be fetched."""
    import datasets

    public = PUBLIC[name]
    try:
        if public.file is None:
            found = datasets.load_dataset(public.id, public.subset, split=public.split, revision=public.revision)
        else:
            found = datasets.load_dataset("json", data_files=f"hf://datasets/{public.source}", split=public.split)
        return [public.turns(record) for record in found.select(range(min(limit or len(found), len(found))))]
    except Exception as error:  # of networks, caches and file formats
        raise UserError(
            f"prompt set {name} ({public.source}) cannot be fetched: {first_line(error)}; without a network, pass a "
            'JSONL file of prompts instead, one {"turns": [...]} a line'
        ) from None
