"""Public sets: asked for at their pinned revision, worded as the papers do, said in one sentence when out of reach."""

from __future__ import annotations

import re
from typing import Any

import datasets
import pytest

from paradraft.errors import UserError
from paradraft.evaluation.prompts import load_prompts
from paradraft.evaluation.public_prompts import PUBLIC

RECORDS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "#### 2"},
    "math500": {"problem": "What is $x$?", "answer": "2"},
    "humaneval": {"task_id": "HumanEval/0", "prompt": "def f():\n"},
    "mbpp": {"task_id": 2, "prompt": "Write a function."},
    "mt-bench": {"prompt": ["Write a post.", "Write it again."]},
    "livecodebench": {"question_content": "Add two numbers.", "starter_code": ""},
}
ASKED = {
    "gsm8k": ["How many?"],
    "math500": ["What is $x$?\nPlease reason step by step, and put your final answer within \\boxed{}."],
    "humaneval": [
        "Write a solution to the following problem and make sure that it passes the tests:\n```python\ndef f():\n\n```"
    ],
    "mbpp": ["Write a function."],
    "mt-bench": ["Write a post.", "Write it again."],
}


def test_every_set_is_pinned_to_a_commit() -> None:
    assert set(PUBLIC) == set(RECORDS)
    assert all(re.fullmatch(r"[0-9a-f]{40}", public.revision) and public.licence for public in PUBLIC.values())


@pytest.mark.parametrize("name", RECORDS)
def test_prompts_are_worded_as_in_the_papers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []

    def load(*arguments: Any, **options: Any) -> datasets.Dataset:
        calls.append((arguments, options))
        return datasets.Dataset.from_list([RECORDS[name]] * 3)

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = load_prompts(name, 2)
    ((arguments, options),) = calls
    assert PUBLIC[name].revision in (options.get("revision") or options["data_files"])
    assert PUBLIC[name].id in f"{arguments} {options}" and options["split"] == PUBLIC[name].split
    assert found.name == name and [prompt.id for prompt in found.prompts] == [f"{name}/0", f"{name}/1"]
    assert found.source == PUBLIC[name].source and found.licence == PUBLIC[name].licence
    turns = [turn[0]["content"] for turn in found.prompts[0].turns]
    assert name == "livecodebench" or turns == ASKED[name]
    assert len(load_prompts(name).prompts) == 3


def test_livecodebench_asks_for_the_given_structure() -> None:
    (plain,) = PUBLIC["livecodebench"].turns(RECORDS["livecodebench"])
    (given,) = PUBLIC["livecodebench"].turns({"question_content": "Add.", "starter_code": "class Solution:\n"})
    assert "except for the program\n\n### Question:\nAdd two numbers.\n\n### Format: Write your code in the" in plain
    assert "### Format: Use the following code structure:\n```python\nclass Solution:\n\n```" in given
    assert all(text.endswith("\n\n### Answer: (use the provided format with backticks)") for text in (plain, given))


def test_without_a_network_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> datasets.Dataset:
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"prompt set gsm8k \(openai/gsm8k@7403.*Couldn't reach the Hub; without a net"):
        load_prompts("gsm8k")
