"""results.json comes back as it was written; the committed ones of older versions are still read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from demo_target.tokenizer import train_tokenizer
from paradraft.decoding import Generation
from paradraft.decoding.request import Round
from paradraft.errors import UserError
from paradraft.evaluation.results import AgainstFirst, Results, read_results, read_run, write_results
from paradraft.evaluation.tables import EMITTED, SPEED, cells, markdown_table, round_pieces

from .test_report import result

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    first = read_run(result("demo:a"), "run")
    against = AgainstFirst("demo:a", "dependent", 0.3, 0.1, 0.5)
    second = replace(first, drafter="b", target_fingerprint="abc", drafter_fingerprint="def", against_first=against)
    write_results(tmp_path / "results.json", [first, second], {"torch": "2.13"})
    assert read_results(tmp_path / "results.json") == Results([first, second], {"torch": "2.13"})


@pytest.mark.parametrize("name", ["demo-t0", "demo-t1", "real-t0", "demo-pard2-scale-0.02"])
def test_older_results_are_read(name: str) -> None:
    path = COMMITTED / f"{name}.json"
    written = json.loads(path.read_text(encoding="utf-8"))["runs"]
    for run, record in zip(read_results(path).runs, written, strict=True):
        assert run.emitted_length.micro == record["emitted_length"]["micro"] and run.speedup == record["speedup"]
        assert run.target_fingerprint is None and run.turns_without_room == record.get("turns_without_room", 0)


def test_a_part_of_another_form_is_named() -> None:
    with pytest.raises(UserError, match="run 3 of x does not have the expected form of seconds"):
        read_run(result("demo:a", seconds={"draft": 1.0}), "run 3 of x")
    with pytest.raises(UserError, match="run 3 of x lacks mode"):
        read_run({key: value for key, value in result("demo:a").items() if key != "mode"}, "run 3 of x")


def test_a_character_that_a_round_cuts_is_shown_whole() -> None:
    """It belongs to the part that completes it, be that the end of a round or of its accepted drafts."""
    tokenizer = train_tokenizer(["plain words and more words"] * 3)  # a smile is four byte tokens
    ids = tokenizer("a 🙂b🙂")["input_ids"]
    for kept in range(3):
        sizes = [kept + 1] * len(ids)
        rounds, done = [], 1
        while done < len(ids):
            emitted = min(sizes[len(rounds)], len(ids) - done)
            rounds.append(Round(tuple(ids[done : done + emitted - 1]), emitted - 1, emitted))
            done += emitted
        pieces = round_pieces(tokenizer, Generation(ids, rounds))
        assert "".join(piece.accepted + piece.own for piece in pieces) == "a 🙂b🙂"
        assert not any("\ufffd" in piece.accepted + piece.own for piece in pieces)


def test_every_table_shows_the_same_cells() -> None:
    run = read_run(result("demo:a", mode="independent"), "run")
    shown = cells(run)
    assert shown["drafter"] == "demo:a independent K=3" and shown["emitted length (95%)"] == "2.72 (2.51 to 2.93)"
    assert shown["speed-up"] == "2.00" and shown["speed-up / emitted"] == "0.74" and shown["loops"] == "14%"
    assert shown["draft/verify/other"] == "25%/62%/12%" and set(EMITTED) | set(SPEED) <= set(shown)
    table = markdown_table([run], ("drafter", "loops"))
    assert table == "| drafter | loops |\n| --- | --- |\n| demo:a independent K=3 | 14% |"
