"""The side-by-side benchmark runs, and all ways write the same greedy text."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import decoding
from paradraft.drafters import DFlash, Vanilla
from paradraft.models import Target
from tests.conftest import make_model


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
        assert sum(run["way"].startswith("transformers") for run in runs) == theirs and len(runs) == theirs + 4
        assert all(
            run["same_text"] == 1.0 and run["tokens"] == runs[0]["tokens"] and run["answers"] == 3 for run in runs
        )
        assert runs[0]["over_transformers"] == 1.0 and runs[-2]["mean_draft_length"] is not None
        assert found["weights"]["target_fingerprint"] and found["environment"]["threads"] == 1
