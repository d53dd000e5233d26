"""The benchmark's own arithmetic, synthetic acceptance, models of random weights, and the page that shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paradraft.decoding import Generation, Seconds
from paradraft.decoding.request import Round
from paradraft.errors import UserError
from paradraft.evaluation.bench import (
    BENCH_FILE,
    BenchRun,
    BenchSettings,
    bandwidth,
    bench,
    bench_results,
    bench_run,
    lengths_of,
    read_bench,
    weight_bytes,
    write_bench,
)
from paradraft.evaluation.bench_report import bench_sentences, paying_sentence
from paradraft.evaluation.report import write_report
from paradraft.evaluation.results import TimeSplit
from paradraft.evaluation.shapes import SHAPES, random_pair
from paradraft.models import Target
from tests.conftest import make_drafter, make_model


def test_figures_of_a_run() -> None:
    """Two rows, one with two rounds of 3 and 1 tokens, one with one round of 2."""
    texts = [
        Generation([1, 2, 3, 4, 5], [Round((1, 2, 3), 2, 3), Round((1,), 0, 1)]),
        Generation([1, 2, 3], [Round((1, 2), 1, 2)]),
    ]
    one_by_one = [Generation(list(range(n + 1)), [Round((), 0, 1)] * n) for n in (1, 1)]
    plain = bench_run(2, "plain", one_by_one, Seconds(verify=0.4), None)
    assert (plain.speedup, plain.efficiency, plain.tokens_per_second) == (1, 1, pytest.approx(5))
    run = bench_run(2, "K=3", texts, Seconds(prefill=9.0, draft=0.1, verify=0.25, other=0.05), plain)
    assert (run.tokens, run.rounds, run.emitted_length, run.mean_draft_length) == (6, 3, 2.0, 2.0)
    assert run.tokens_per_second == pytest.approx(15) and run.speedup == pytest.approx(3)
    assert run.efficiency == pytest.approx(400 / 200) and run.milliseconds_per_round == pytest.approx(200)
    assert run.milliseconds_per_token == pytest.approx(200 / 2)


def test_a_row_that_ends_early_waits_for_nobody() -> None:
    """Three rows of 10 tokens and one of 100, a millisecond a step: each reader got a token a millisecond."""

    def texts(step: int) -> list[Generation]:
        rounds = {n: [Round((0,) * (step - 1), step - 1, step)] * (n // step) for n in (10, 100)}
        return [Generation(list(range(n + 1)), rounds[n]) for n in (10, 10, 10, 100)]

    plain = bench_run(4, "plain", texts(1), Seconds(verify=0.1), None)
    assert plain.milliseconds_per_round == plain.milliseconds_per_token == pytest.approx(1)
    drafted = bench_run(4, "K=4", texts(5), Seconds(verify=0.02), plain)
    assert drafted.efficiency == pytest.approx(1) and drafted.milliseconds_per_token == pytest.approx(0.2)


@pytest.mark.parametrize("probability", [0.6, 1.0])
def test_synthetic_acceptance_accepts_what_it_is_told(target: Target, probability: float) -> None:
    drafter = make_drafter(target)
    settings = BenchSettings((1, 3), (4,), max_new_tokens=40, repeats=2, synthetic_acceptance=probability)
    runs = bench(target, drafter, [[1, 2, 3], [4]], settings)
    assert [(run.batch_size, run.way) for run in runs] == [(1, "plain"), (1, "K=4"), (3, "plain"), (3, "K=4")]
    for run in runs:
        wanted = sum(probability**k for k in range(5)) if run.way != "plain" else 1.0
        assert run.emitted_length == pytest.approx(wanted, abs=0.45)
        assert run.tokens == 2 * run.batch_size * 39
    with pytest.raises(UserError, match="must lie in 0 to 1"):
        replace(settings, synthetic_acceptance=1.5)


def test_without_it_texts_are_the_targets_own(target: Target) -> None:
    runs = bench(
        target, make_drafter(target), [[1, 2, 3], [4]], BenchSettings((1, 2), (5,), max_new_tokens=20, repeats=1)
    )
    assert [run.tokens for run in runs] == [19, 19, 38, 38] and runs[0].speedup == 1
    assert runs[1].efficiency == pytest.approx(runs[1].speedup / runs[1].emitted_length)  # with one row


def run_of(batch_size: int, speedup: float, way: str = "K=4") -> BenchRun:
    return BenchRun(batch_size, way, 9, 3, 1.0, 20.0, 7.0, 2.0, 4.0, speedup, speedup / 2, TimeSplit(1, 2, 1))


def test_where_drafting_stops_paying() -> None:
    assert paying_sentence("K=4", [run_of(1, 2.0), run_of(5, 1.5), run_of(15, 0.5)]).endswith("about 10.")
    assert paying_sentence("K=4", [run_of(1, 2.0), run_of(4, 1.5)]).endswith("pays at batch sizes from 1 to 4.")
    assert "does not pay at batch sizes from 1 to 4" in paying_sentence("K=4", [run_of(1, 0.9), run_of(4, 0.5)])
    assert paying_sentence("K=4", [run_of(1, 0.9)]) == "K=4 does not pay at a batch size of 1."


def test_every_batch_size_is_named_where_drafting_begins_or_stops_to_pay() -> None:
    runs = [run_of(1, 0.95), run_of(4, 1.2)]
    assert paying_sentence("K=4", runs) == "K=4 pays from a batch size of about 2."
    assert paying_sentence("K=4", [*runs, run_of(16, 0.8), run_of(64, 1.1)]) == (
        "K=4 pays from a batch size of about 2 and stops paying at a batch size of about 10 "
        "and pays from a batch size of about 48."
    )


def test_the_usual_draft_lengths_are_those_that_the_drafter_can_draft(target: Target) -> None:
    lengths = {most: lengths_of(make_drafter(target, most + 1), BenchSettings()) for most in (1, 4, 7)}
    assert lengths == {1: ("auto",), 4: ("auto", 2, 4), 7: ("auto", 2, 4, 7)}
    runs = bench(target, make_drafter(target, 4), [[1, 2]], BenchSettings((1,), max_new_tokens=4, repeats=1))
    assert [run.way for run in runs] == ["plain", "K=auto", "K=2"]
    with pytest.raises(UserError, match="draft length 7 is outside 1 to 3"):
        bench(target, make_drafter(target, 4), [[1, 2]], BenchSettings((1,), ("auto", 7)))


def test_results_come_back_and_are_drawn(target: Target, tmp_path: Path) -> None:
    settings = BenchSettings((1, 3), ("auto", 3), max_new_tokens=8, repeats=1, synthetic_acceptance=0.7)
    drafter = make_drafter(target)
    runs = bench(target, drafter, [[1, 2]], settings)
    results = bench_results(target, drafter, ("T", "D"), settings, runs)
    assert results.limit_milliseconds == pytest.approx(1000 * results.target_bytes / results.bandwidth)
    write_bench(tmp_path / BENCH_FILE, results)
    assert read_bench(tmp_path / BENCH_FILE) == results
    write_report([tmp_path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "speed over batch size" in page and "the text is not the target" in page and '"type":"log"' in page
    assert not any(
        "not the target" in sentence for sentence in bench_sentences(replace(results, synthetic_acceptance=None))
    )
    (tmp_path / BENCH_FILE).write_text("{}")
    with pytest.raises(UserError, match="is not what `paradraft bench --out` writes"):
        read_bench(tmp_path / BENCH_FILE)


def test_bytes_and_bandwidth(target: Target) -> None:
    parameters = sum(p.numel() for p in target.model.parameters())
    assert weight_bytes(target.model, target.embedding, target.output_embedding) == 4 * (parameters - 40 * 32)
    assert 1e8 < bandwidth(torch.device("cpu")) < 1e13


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_a_mixture_of_experts_has_no_limit_by_bytes(family: str) -> None:
    target = Target(make_model(family))
    drafter = make_drafter(target)
    found = bench_results(target, drafter, ("T", "D"), BenchSettings(), [run_of(1, 1.0, "plain"), run_of(1, 2.0)])
    assert found.limit_milliseconds is None
    assert "no limit" in bench_sentences(found)[0] and "takes less than" not in bench_sentences(found)[0]


def test_models_of_random_weights() -> None:
    target, drafters = random_pair("random:toy", ["random:dflash", "random:pard2"], "auto")
    assert target.dtype == torch.float32 == torch.get_default_dtype()
    assert [d.max_draft for d in drafters.values()] == [7, 16]
    for drafter in drafters.values():
        settings = BenchSettings((2,), (3,), max_new_tokens=6, repeats=1, synthetic_acceptance=1.0)
        assert bench(target, drafter, [[1, 2]], settings)[1].tokens == 10
    for pair in (("random:huge", "random:dflash"), ("random:toy", "demo:pard2")):
        with pytest.raises(UserError, match="is not known"):
            random_pair(pair[0], [pair[1]], "auto")


def test_published_sizes() -> None:
    """Billions of parameters, counted without making them."""
    from transformers import AutoModelForCausalLM

    counts = {}
    with torch.device("meta"):
        for name, shape in SHAPES.items():
            models = [AutoModelForCausalLM.from_config(config) for config in (shape.target, shape.pard2)]
            counts[name] = [sum(p.numel() for p in model.parameters()) / 1e9 for model in models]
    assert counts["qwen3-4b"] == pytest.approx([4.02, 0.596], abs=0.01)
    assert counts["qwen3-8b"] == pytest.approx([8.19, 0.596], abs=0.01)
    assert counts["llama-3.1-8b"] == pytest.approx([8.03, 1.236], abs=0.01)
