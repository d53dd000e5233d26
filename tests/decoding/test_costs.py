"""Costs are measured once for a pair of models, kept on disk, and interpolated between what was measured."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from paradraft.decoding import Engine, Sampling, costs
from paradraft.decoding.costs import MeasuredCosts, RowCosts, cost_path, identity, over_lengths, read_costs
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.errors import UserError
from paradraft.models import Target
from tests.conftest import KINDS, make_drafter, make_drafter_of, make_model


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARADRAFT_CACHE", str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_every_drafter_is_measured(target: Target, kind: str) -> None:
    drafter = make_drafter_of(kind, target)
    found = MeasuredCosts(target, drafter, 5)
    for sampled in (False, True):
        found.prepare(3, sampled)
        verify, draft = found.verify(3), found.draft(3)
        assert verify.shape == (6,) and draft.shape == (3, 6) and found.catch_up > 0
        assert verify.min() > 0 and (np.diff(verify) >= 0).all()
        assert not draft[:, 0].any() and draft[:, 1:].min() > 0 and (np.diff(draft) >= 0).all()
    assert len(list(cost_path("x").parent.glob("*.json"))) == 2


def test_costs_are_measured_once(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = make_drafter(target)
    measured = []

    def measure(target: Target, drafter: object, rows: int, most: int, sampled: bool, tree: int | None) -> RowCosts:
        measured.append(rows)
        return RowCosts([float(rows)] * (most + 1), [0.0] + [2.0 * rows] * most, 0.1)

    monkeypatch.setattr(costs, "measure_costs", measure)
    for rows in (1, 3, 16, 100):
        MeasuredCosts(target, drafter, 5).prepare(rows, False)
    assert measured == [1, 4, 16, 64]
    known = MeasuredCosts(target, drafter, 5)
    known.prepare(100, False)
    assert measured == [1, 4, 16, 64]
    assert known.verify(1)[0] == 1 and known.verify(10)[3] == 10 and known.verify(100)[5] == 100
    assert np.allclose(known.draft(70)[:, 2], 2 * np.arange(1, 71))


def test_what_padding_costs_is_measured_where_rows_are_packed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row drafts 4 tokens, three none: a step of the time of 4 tokens, and 12 places without one."""
    drafter, verify = make_drafter(target), [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]
    with_four_rows = MeasuredCosts(target, drafter, 5)
    with_four_rows.prepare(4, False)
    assert with_four_rows.padding(4) is None
    target.prepare_decoding()
    packs = MeasuredCosts(target, drafter, 5)
    packs.prepare(4, False)
    assert packs.padding(1) == 0 and (packs.padding(4) or 0) >= 0 and packs.padding(4) is not None
    bench = costs.Bench(target, drafter, 4, False, 20, 5, None)
    monkeypatch.setattr(costs, "seconds_of", lambda call, device: (call(), 6.6)[1])
    assert costs.padding_of(bench, verify) == pytest.approx((6.6 - 3.0) / 12)


def test_forgotten_costs_are_measured_again_and_replace_the_file(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter, seconds = make_drafter(target), iter((2.0, 2.0, 1.0))
    monkeypatch.setattr(costs, "measure_costs", lambda *_: RowCosts([next(seconds)] * 6, [0.0] * 6, 0.1))
    found = MeasuredCosts(target, drafter, 5)
    found.prepare(4, False)
    found.forget()
    found.prepare(1, False)
    assert found.verify(1)[0] == 1
    assert list(read_costs(cost_path(identity(target, drafter, 5, False)))) == [1]


def test_a_damaged_file_is_said_and_measured_again(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    drafter = make_drafter(target)
    path = cost_path(identity(target, drafter, 5, False))
    path.parent.mkdir()
    path.write_text('{"rows": {"1": {}}}')
    with caplog.at_level(logging.WARNING):
        MeasuredCosts(target, drafter, 5).prepare(1, False)
    assert "measured again" in caplog.text and "catch_up" in path.read_text()


def test_only_what_costs_depend_on_makes_another_file(target: Target) -> None:
    drafter = make_drafter(target)
    key = identity(target, drafter, 5, False)
    other_weights = Target(make_model("qwen3", seed=5))
    assert identity(other_weights, make_drafter(other_weights, seed=7), 5, False) == key
    deeper = Target(make_model("qwen3", num_hidden_layers=5))
    assert len({key, identity(target, drafter, 5, True), identity(deeper, make_drafter(deeper), 5, False)}) == 3


def test_between_and_beyond_measured_lengths() -> None:
    assert over_lengths({0: 1.0, 1: 3.0, 3: 5.0}, 5) == [1, 3, 4, 5, 6, 7]
    assert over_lengths({0: 2.0, 1: 1.0, 3: 2.5}, 3) == [1, 1, 1.75, 2.5]  # something else ran meanwhile
    assert over_lengths({1: 2.0}, 2) == [2, 2, 2]


def test_an_engine_measures_by_itself(target: Target) -> None:
    drafter = make_drafter(target)
    for sampling in (Sampling(), Sampling(1.0)):
        engine = Engine(target, drafter, sampling, "auto")
        for generation in engine.generate([[4, 9, 2], [8]], 20, ()):
            assert len(generation.tokens) == 20
    plain = Engine(target).generate([[4, 9, 2], [8]], 20, ())
    again = Engine(target, drafter, draft_length="auto").generate([[4, 9, 2], [8]], 20, ())
    assert [g.tokens for g in plain] == [g.tokens for g in again]


def test_costs_that_cannot_be_written_are_said_and_used(
    target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        raise UserError(f"{path} cannot be written (No space left on device)")

    monkeypatch.setattr(costs, "write_text", full)
    found = MeasuredCosts(target, make_drafter(target), 3)
    with caplog.at_level(logging.WARNING):
        found.prepare(1, False)
    assert found.verify(1)[0] > 0 and "No space left" in caplog.text


def test_drafters_that_cost_differently_have_their_own_figures(target: Target) -> None:
    """The shapes of their weights are the same: what the blocks see, and how many tokens can be drafted, are not."""
    found = set()
    for causal in (False, True):
        for size in (None, 8, 16):
            drafter = make_drafter_of("dflash", target, causal=causal)
            if size is not None:
                drafter.restrict(DraftVocabulary(torch.arange(size), target.vocabulary_size))
            found.add(identity(target, drafter, 4, False))
    assert len(found) == 6
