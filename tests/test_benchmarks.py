"""The benchmarks run at toy sizes: side by side, and the decoding part of what is for a GPU."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from benchmarks import decoding
from paradraft.drafters import DRAFTERS, DFlash, Vanilla
from paradraft.models import Target
from tests.conftest import make_model


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_every_benchmark_can_be_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of what it imports is still there."""
    monkeypatch.syspath_prepend(path.parent)  # as `python benchmarks/x.py` has it
    importlib.import_module(f"benchmarks.{path.stem}")


def test_all_ways_of_decoding_side_by_side(target_directory: Path, prompts: Path, tmp_path: Path) -> None:
    target = Target.load(str(target_directory))
    DFlash.fresh(target, layers=2, block_size=4).save_pretrained(tmp_path / "dflash")
    Vanilla(make_model("llama", vocab_size=target.vocabulary_size), target, 3).save_pretrained(tmp_path / "vanilla")
    asked = ["--target", target_directory, "--drafter", tmp_path / "dflash", "--prompts", prompts]
    small = [
        "--max-new-tokens",
        12,
        "--lengths",
        "2,auto",
        "--tree",
        4,
        "--threads",
        1,
        "--out",
        tmp_path / "found.json",
    ]
    for batch_size, theirs, more in ((1, 3, []), (1, 3, ["--assistant-length", 2]), (2, 1, [])):
        options = [*asked, "--assistant", tmp_path / "vanilla", *small, "--batch-size", batch_size, *more]
        decoding.main([str(option) for option in options])
        found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        runs = found["runs"]
        assert sum(run["way"].startswith("transformers") for run in runs) == theirs and len(runs) == theirs + 5
        assert [run["way"].removeprefix(f"{tmp_path / 'dflash'} ") for run in runs[-4:]] == [
            "K=2",
            "K=auto",
            "K=auto chains",
            "tree of 4",
        ]
        assert all(
            run["same_text"] == 1.0 and run["tokens"] == runs[0]["tokens"] and run["answers"] == 3 for run in runs
        )
        assert runs[0]["over_transformers"] == 1.0 and runs[-4]["mean_draft_length"] is not None
        assert found["weights"]["target_fingerprint"] and found["environment"]["threads"] == 1


def test_the_decoding_part_of_the_gpu_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that it checks is there, with its aim; how fast it was says nothing at these sizes."""
    monkeypatch.syspath_prepend(str(Path(decoding.__file__).parent))  # it imports the files beside it
    gpu = importlib.import_module("gpu")
    parts = [name for name in gpu.PARTS if name.startswith("decoding_")]
    gpu.main(["--small", "--only", *parts, "--out", str(tmp_path / "gpu.json")])
    read = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    found = {
        name: read[f"decoding_{name}"]
        for name in ("lean_equals_eager", "graphs", "same_texts", "same_texts_bfloat16", "times")
    }
    assert found["lean_equals_eager"]["passed"]
    assert all(0 <= way["equal"] <= 1 for way in found["same_texts_bfloat16"]["ways"])
    times = found["graphs"]["milliseconds"]
    assert {(time["rows"], time["tokens"]) for time in times} == {(r, t) for r in (1, 4, 16) for t in (1, 16)}
    assert all(time["eager"] > 0 and time["limit"] > 0 for time in times) and found["graphs"]["passed"]
    ways = found["same_texts"]["ways"]
    assert {way["drafter"] for way in ways} == set(DRAFTERS)
    assert {way["way"] for way in ways if way["drafter"] == "pard"} == {"chain", "auto", "tree"}
    assert all(way["equal"] == 1.0 for way in ways)
    assert all(way["emitted_length"] > 2 for way in ways if way["way"] != "auto")
    for name, drafted in {"dflash": 7, "pard2": 15}.items():
        pair = found["times"][name]
        aims = [check["aim"] for check in pair["checks"]]
        assert aims == ["at most 1.25", "at most 1.35", "at least 0.8", "at least 0.97", "at least 0.97"]
        assert pair["checks"][0]["met"] is (pair["checks"][0]["value"] <= 1.25)
        assert pair["checks"][2]["met"] is (pair["checks"][2]["value"] >= 0.8)
        assert sum(pair["bench"]["synthetic_acceptance"] ** k for k in range(drafted + 1)) == pytest.approx(6)
        assert {run["batch_size"] for run in pair["bench"]["runs"]} == {1, 4}


def test_a_part_of_the_gpu_benchmark_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is in the file, what comes after it runs, and the exit status says so."""
    monkeypatch.syspath_prepend(str(Path(decoding.__file__).parent))
    gpu = importlib.import_module("gpu")
    monkeypatch.setitem(gpu.PARTS, "training", lambda device, small: 1 / 0)
    out = tmp_path / "gpu.json"
    with pytest.raises(SystemExit, match="1"):
        gpu.main(["--small", "--only", "training", "flex_equals_dense", "--out", str(out)])
    found = json.loads(out.read_text(encoding="utf-8"))
    assert "ZeroDivisionError" in found["training"]["error"] and found["flex_equals_dense"]["passed"]
