"""A tiny target and prompts for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paradraft.models import Target


@pytest.fixture(scope="module")
def tiny(target_directory: Path) -> Target:
    return Target.load(str(target_directory))


@pytest.fixture
def many_prompts(tmp_path: Path) -> Path:
    words = ["the cat", "a dog ran", "1 2 3", "to the house", "on the mat"]
    records = [{"id": i, "turns": [f"{words[i % 5]} {i}", "and then?"][: 1 + (i % 3 == 0)]} for i in range(60)]
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path
