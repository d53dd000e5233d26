"""The prompts of the public target's training text, and the answers joined with them again."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from paradraft.text.provenance import Provenance, TargetIdentity, content_hash, write_provenance

SCRIPT = Path(__file__).parents[1] / "smollm2" / "text.py"


@pytest.fixture
def text() -> Any:
    spec = importlib.util.spec_from_file_location("smollm2_text", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(text: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in zip(text.DATA_FILES, (2100, 20, 10), strict=True):
        with gzip.open(folder / name, "wt") as file:
            for n in range(count):
                number = f"mbpp/{n}" if n % 4 == 1 else f"{name}/{n}"
                file.write(json.dumps({"id": number, "messages": [{"role": "user", "content": f"ask {n}"}]}) + "\n")
    return folder


def test_answers_to_either_choice_of_prompts_find_them_again(
    text: Any, data: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    usual, whole = text.choose(data), text.choose(data, whole=True)
    kinds = {name: sum(p["id"].startswith(f"{name}/") for p in whole) for name in ("math", "boxed", "code", "demo")}
    assert kinds == {"math": 2100, "boxed": 2100, "code": 15, "demo": text.SHARES["demo"]}
    assert sum(p["id"].startswith("math/") for p in usual) == 2000
    asked = {p["id"]: p["messages"][0]["content"] for p in (*usual, *whole)}
    answers = tmp_path / "answers.jsonl"
    lines = [{"id": i, "answer": f"to {i}", "finish_reason": "stop", "temperature": 0.0} for i in asked]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    target = TargetIdentity("smollm2", None, "0" * 12)
    write_provenance(answers, Provenance(target, "t" * 12, None, {"parts": []}, content_hash(answers)))
    text.join(data, [answers], tmp_path / "joined.jsonl")
    joined = [json.loads(line) for line in (tmp_path / "joined.jsonl").read_text().splitlines()]
    assert len(joined) == len(asked) > len(whole)
    for record in joined:
        question, answer = (message["content"] for message in record["messages"])
        assert question == asked[record["id"]] and answer == f"to {record['id']}"
    assert "left out" not in capsys.readouterr().out
    monkeypatch.setattr(text, "library_stubs", lambda: [])  # as another Python lacks some
    text.join(data, [answers], tmp_path / "joined.jsonl")
    fewer = [json.loads(line)["id"] for line in (tmp_path / "joined.jsonl").read_text().splitlines()]
    assert fewer == [i for i in asked if not i.startswith("stubs/")]
    assert f"{len(asked) - len(fewer)} answers are left out" in capsys.readouterr().out


def test_a_missing_file_is_named(text: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["text.py", "prompts", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        text.main()
    assert "math.jsonl.gz is not there" in capsys.readouterr().err
