"""results.json comes back as it was written; the committed ones of older versions are still read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo_target.tokenizer import train_tokenizer
from paradraft.decoding import Generation, Sampling, Seconds
from paradraft.decoding.request import Round
from paradraft.errors import UserError
from paradraft.evaluation.measure import PLAIN, Measured, Settings, Weights, run_results
from paradraft.evaluation.prompts import Prompt, PromptSet
from paradraft.evaluation.results import AgainstFirst, Results, read_results, read_run, write_results
from paradraft.evaluation.tables import EMITTED, SPEED, cells, markdown_table, round_pieces
from paradraft.models import Target

from .test_report import result

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    first = read_run(result("demo:a"), "run")
    against = AgainstFirst("demo:a", "dependent", 0.3, 0.1, 0.5)
    second = replace(first, drafter="b", target_fingerprint="abc", drafter_fingerprint="def", against_first=against)
    write_results(tmp_path / "results.json", [first, second], {"torch": "2.13"})
    assert read_results(tmp_path / "results.json") == Results([first, second], {"torch": "2.13"})


def engine_of(length: int, **seconds: float) -> Any:
    return SimpleNamespace(draft_length=length, acceptance="chain", tree=None, seconds=Seconds(prefill=5.0, **seconds))


def test_the_figures_of_an_evaluation_by_hand(target_directory: Path) -> None:
    """Two prompts of 5 tokens each, one from the prefill; of the second drafter's texts one differs."""
    texts = [1, 2, 3, 4, 5], [6, 7, 8, 9, 9]
    plain = [Generation(list(text), [Round((), 0, 1)] * 4) for text in texts]
    first = [Generation(list(text), [Round((2, 3), 1, 2), Round((4, 5), 1, 2)]) for text in texts]
    second = [
        Generation(list(texts[0]), [Round((2, 3, 4), 3, 4)]),
        Generation([6, 7, 8, 9, 1], [Round((7, 0, 0), 1, 2), Round((9, 9, 9), 1, 2)]),
    ]
    ways = [
        Measured(PLAIN, "", engine_of(0, verify=8.0), plain, [0, 1]),
        Measured("a", "dependent", engine_of(2, draft=1.0, verify=2.0, other=1.0), first, [0, 1]),
        Measured("b", "dependent", engine_of(3, draft=1.0, verify=7.0), second, [0, 1]),
    ]
    target = Target.load(str(target_directory))
    prompts = PromptSet("x", tuple(Prompt(str(n), (({"role": "user", "content": "say"},),), ()) for n in range(2)))
    a, b = run_results(target, Weights("t", None, {}), ways, prompts, Settings(Sampling(0.0)))
    assert (a.identical, a.identical_share, b.identical, b.identical_share) == (True, 1.0, False, 0.5)
    assert (a.plain_tokens_per_second, a.tokens_per_second, a.speedup) == (1.0, 2.0, 2.0)  # 8 tokens, no prefill
    assert (b.tokens_per_second, b.speedup, b.prefill_seconds) == (1.0, 1.0, 5.0)
    assert (a.emitted_length.micro, a.emitted_length.macro) == (2.0, 2.0)
    assert b.emitted_length.micro == pytest.approx(8 / 3) and b.emitted_length.macro == (4 + 2) / 2
    assert a.acceptance.conditional == [1.0, 0.0] and a.acceptance.unconditional == [1.0, 0.0]
    assert b.acceptance.conditional == [1.0, pytest.approx(1 / 3), 1.0]
    assert b.acceptance.unconditional == [1.0, pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert a.against_first is None and b.against_first is not None
    assert b.against_first.emitted_length_difference == pytest.approx(8 / 3 - 2)
    assert (b.against_first.low, b.against_first.high) == (0.0, 2.0)  # the same prompt twice, or the other


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
