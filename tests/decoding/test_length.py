"""How many tokens are drafted: what pays by given costs, nothing where nothing pays; what is sampled has no bias."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from paradraft.decoding import Engine, Request, Sampling, draft
from paradraft.decoding.acceptance import chain
from paradraft.decoding.draft import Draft, Drafting, Noise
from paradraft.decoding.history import ChainHistory
from paradraft.decoding.length import LOSS, MARGIN, Adaptive
from paradraft.decoding.request import Round, Sequence
from paradraft.errors import UserError
from paradraft.evaluation.lossless import check_distribution
from paradraft.models import Target
from tests.conftest import KINDS, make_drafter, make_drafter_of, make_model

from .test_engine import finish, oracle, transformers_greedy


class Given:
    """Costs by formula: a plain step of one row takes 1, a drafted token `token`, a draft `start`, a row `row`."""

    catch_up = 0.001
    growing = branching = 0.0  # of a tree, beyond a chain
    forgotten = 0  # times
    padded: float | None = None  # a place without a token

    def __init__(self, most: int, token: float = 0.05, start: float = 0.3, row: float = 0.1) -> None:
        self.most, self.token, self.start, self.row = most, token, start, row

    def prepare(self, rows: int, sampled: bool) -> None:
        pass

    def forget(self) -> None:
        self.forgotten += 1

    def verify(self, rows: int) -> np.ndarray:
        return 1 + (rows - 1) * self.row + rows * self.token * np.arange(self.most + 1)

    def padding(self, rows: int) -> float | None:
        return self.padded

    def beyond_chains(self, rows: int) -> tuple[float, float]:
        return self.growing, self.branching

    def draft(self, rows: int) -> np.ndarray:
        lengths, counts = np.arange(self.most + 1), np.arange(1, rows + 1)[:, None]
        return (self.start + self.token * counts * lengths) * (lengths > 0)


class Timed(Adaptive):
    """Rounds take `times` as long as `true` costs say, whatever was measured; without `true`, as long as measured."""

    def __init__(self, most: int, costs: Given, true: Given | None = None, times: float = 1.0) -> None:
        super().__init__(costs, ChainHistory(most))
        self.true, self.times = Adaptive(true or costs, ChainHistory(most)), times

    def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float = 0.0) -> None:
        self.true._behind = self._behind
        super().learn(sequences, lengths, self.times * self.true.expected(sequences, lengths))


def adaptive(engine: Engine, costs: Given) -> Engine:
    engine.lengths = Timed(engine.draft_length, costs)
    return engine


def drafted(engine: Engine, prompt: list[int], new: int) -> list[int]:
    (generation,) = engine.generate([prompt], new, ())
    return [len(r.drafted) for r in generation.rounds]


def test_a_perfect_drafter_drafts_all_it_can(target: Target) -> None:
    prompt = [4, 9, 2]
    answer = transformers_greedy(target, prompt, 100)
    engine = adaptive(Engine(target, oracle(target, prompt + answer, 1000)), Given(5))
    lengths = drafted(engine, prompt, 100)
    assert set(lengths[3:-1]) == {5} and len(lengths) < 22


def test_a_hopeless_drafter_soon_drafts_nothing(target: Target) -> None:
    """And what asking again costs stays below its limit, of the time of all steps."""
    prompt = [4, 9, 2]
    answer = transformers_greedy(target, prompt, 240)
    costs = Given(5)
    engine = adaptive(Engine(target, oracle(target, prompt + answer, 1)), costs)
    lengths = drafted(engine, prompt, 240)
    assert len(lengths) == 239 and lengths[0] > 0 and not any(lengths[4:20])
    asked = [length for length in lengths[4:] if length]
    seconds = sum(costs.verify(1)[n] + costs.draft(1)[0, n] for n in lengths[4:])
    assert len(asked) >= 2 and seconds / len(lengths[4:]) < 1 + LOSS + 0.001


def test_drafting_begins_again_when_it_pays(target: Target) -> None:
    prompt = [4, 9, 2]
    answer = transformers_greedy(target, prompt, 240)
    drafter = oracle(target, prompt + answer, 1)
    engine = adaptive(Engine(target, drafter), Given(5))
    assert not any(drafted(engine, prompt, 24)[4:])
    drafter.wrong_every = 1000
    again = drafted(engine, prompt, 240)  # a new row is tried, at once or when the last try is paid
    begun = next(n for n, length in enumerate(again) if length)
    assert begun < 60 and 0 not in again[begun + 1 : -1] and again[-10:-1] == [5] * 9


@pytest.mark.parametrize("wrong_every", [1, 1000])
def test_new_rows_draft_at_once_where_drafting_has_paid(target: Target, wrong_every: int) -> None:
    """And where it has not, trying them all stays below its limit, of the time of all steps."""
    prompt = [4, 9, 2]
    answer = transformers_greedy(target, prompt, 30)
    costs = Given(5)
    engine = adaptive(Engine(target, oracle(target, prompt + answer, wrong_every)), costs)
    rows = [drafted(engine, prompt, 30) for _ in range(50)]
    if wrong_every > 1:
        assert all(lengths[0] for lengths in rows)
        return
    late = [length for lengths in rows[20:] for length in lengths]
    lost = sum(costs.verify(1)[n] + costs.draft(1)[0, n] - costs.verify(1)[0] for n in late)
    assert 0 < lost / len(late) < 1.5 * LOSS


def test_a_new_row_waits_where_drafting_has_not_paid() -> None:
    """Until the plain steps before it have saved what trying it costs, not half of that."""
    rule, row = Timed(4, Given(4)), sequence()
    for _ in range(800):
        lengths = rule.choose([row])
        if lengths[0]:
            row.generation.rounds.append(Round((1,) * lengths[0], 0, 1))
        rule.learn([row], lengths)
    loss = rule._needed
    rule._credit = loss / 2
    assert rule.choose([sequence()]) == [0]
    rule._credit = loss
    assert rule.choose([sequence()]) != [0]


def test_a_few_rejections_are_no_reason_to_stop() -> None:
    """Costs as of PARD-2 for smollm2: a round of 5 drafts takes 1.87 plain steps. Two of them fail at first."""
    rule, row = Timed(5, Given(5, token=0.03, start=0.57)), sequence()
    for rejected in range(12):
        (length,) = rule.choose([row])
        assert length > 0 or rejected > 2
        row.generation.rounds.append(Round((1,) * length, 0, 1))
        rule.learn([row], [length])
    assert rule.choose([row]) == [0]


def test_rows_have_acceptance_of_their_own() -> None:
    """Two rows, one of which accepts nothing: only the other goes on drafting when a draft costs by the row."""
    rule, rows = Timed(4, Given(4, token=0.0, start=0.0)), [sequence(), sequence()]
    rule.costs.draft = lambda n: 0.4 * np.arange(1, n + 1)[:, None] * (np.arange(5) > 0)  # type: ignore[method-assign]
    assert rule.choose(rows) == [4, 4]
    for rounds in range(1, 61):
        for row, accepted in zip(rows, (4, 0), strict=True):
            row.generation.rounds.append(Round((1, 2, 3, 4), accepted, accepted + 1))
        rule.learn(rows, [4, 4])
        if rounds >= 12:
            assert rule.choose(rows) == [4, 0]
    assert isinstance(rule.history, ChainHistory)
    good, bad = rule.history.survival(rows)
    assert good[3] > 0.8 > 0.2 > bad[0]


def sequence(room: int = 100) -> Sequence:
    return Sequence(Request([1], room), frozenset(), 0)


def test_the_choice_is_the_best_of_all() -> None:
    """Against trying every length and every set of rows."""
    rng = random.Random(0)
    zeros = 0
    for _ in range(60):
        most, rows = rng.choice([1, 3, 6]), [sequence(rng.choice([1, 2, 4, 100])) for _ in range(rng.choice([1, 2, 4]))]
        costs = Given(most, rng.choice([0.01, 0.1]), rng.choice([0.05, 0.5]))
        rule = Adaptive(costs, history := ChainHistory(most))
        for row in rows * 5:
            rule.history.add(row, most, Round((0,) * most, rng.randint(0, most), most + 1))
            rule.history.update()
        gains = history.survival(rows).cumsum(1)
        verify, draft_seconds = costs.verify(len(rows)), costs.draft(len(rows))
        best, plain = 0.0, len(rows) / verify[0]
        for length in range(1, most + 1):
            for chosen in itertools.product((False, True), repeat=len(rows)):
                own = [min(length, row.room - 1) if is_in else 0 for row, is_in in zip(rows, chosen, strict=True)]
                gained = sum(gains[row, n - 1] for row, n in enumerate(own) if n)
                if any(chosen):
                    seconds = verify[length] + draft_seconds[sum(chosen) - 1, length]
                    best = max(best, (len(rows) + gained) / seconds)
        found = rule.choose(rows)
        if best <= plain * MARGIN:
            assert not any(found)
            zeros += 1
        else:
            gained = sum(gains[row, n - 1] for row, n in enumerate(found) if n)
            drawn, longest = sum(n > 0 for n in found), max(found)
            assert (len(rows) + gained) / (verify[longest] + draft_seconds[drawn - 1, longest]) >= best * (1 - 1e-9)
        assert all(n <= row.room - 1 for n, row in zip(found, rows, strict=True))
    assert 5 < zeros < 55


@pytest.mark.parametrize("kind", KINDS)
def test_adaptive_lengths_are_lossless(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy texts equal plain decoding's, whatever costs make of the lengths, while sequences come and go."""
    rng = random.Random(kind)
    used: set[int] = set()
    for _ in range(6):
        seed = rng.randrange(10_000)
        target = Target(make_model("llama", seed=seed))
        drafter = make_drafter_of(kind, target, rng.choice([3, 7]), seed=seed)
        monkeypatch.setattr(draft, "LATER", rng.choice([2, 64]))
        prompts = [[rng.randrange(1, 40) for _ in range(rng.randint(1, 9))] for _ in range(6)]
        new = rng.randint(5, 40)
        plain = [g.tokens for g in Engine(target).generate(prompts, new, ())]
        costs = Given(drafter.max_draft, rng.choice([0.0, 0.02]), rng.choice([0.0, 0.05, 0.2]))
        engine = adaptive(Engine(target, drafter, max_rows=rng.choice([None, 2])), costs)
        sequences = [engine.add(Request(prompt, new, stops=frozenset())) for prompt in prompts]
        assert [s.generation.tokens for s in finish(engine, sequences)] == plain
        used |= {len(r.drafted) for s in sequences for r in s.generation.rounds}
    assert len(used) > 2 and 0 in used


def adaptive_that_tells(used: set[int]) -> type[Adaptive]:
    class Watched(Adaptive):
        def choose(self, sequences: list[Sequence]) -> list[int]:
            found = super().choose(sequences)
            used.update(found)
            return found

    return Watched


def test_adaptive_lengths_do_not_change_what_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    target, used = flat_target(), set[int]()
    drafter = make_drafter(target, block_size=4)

    monkeypatch.setattr(
        "paradraft.decoding.confidence.MeasuredCosts", lambda target, drafter, most, tree=None: Given(most, 0.0004)
    )
    monkeypatch.setattr("paradraft.decoding.confidence.Adaptive", adaptive_that_tells(used))
    result = check_distribution(
        target, drafter, [[1, 2, 3], [7]], 30_000, Sampling(1.0), batch_size=200, draft_length="auto"
    )
    assert result.passed and result.cells > 50, result
    assert used >= {0, 1, 3}


def flat_target() -> Target:
    """A vocabulary of 12, flat enough that drafts are accepted and rejected."""
    return Target(make_model("qwen3", vocab_size=12, initializer_range=0.15))


def test_a_length_that_looks_at_the_draft_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    target, right = flat_target(), Drafting.chain

    def without_even_tokens(*arguments: object) -> Draft:
        found = right(*arguments)  # type: ignore[arg-type]
        return Draft(found.tokens, found.lengths * (found.tokens[:, 0] % 2), None, found.probabilities)

    monkeypatch.setattr(Drafting, "chain", without_even_tokens)
    drafter = make_drafter(target, block_size=4)
    result = check_distribution(target, drafter, [[1, 2, 3], [7]], 15_000, Sampling(1.0), batch_size=5000)
    assert not result.passed, result


def test_why_a_length_must_not_look_at_the_draft() -> None:
    """Fair coins p = q: dropping every drafted 1 makes 0 come in 3 of 4 cases; dropping half of all changes nothing."""
    torch.manual_seed(0)
    count = 100_000
    tokens, coins = torch.randint(0, 2, (count, 1)), torch.full((count, 2, 2), 0.5)

    def zeros(lengths: Tensor) -> float:
        noise = Noise(torch.rand(count, 1, dtype=torch.float64), torch.rand(count, dtype=torch.float64))
        accepted = chain(Draft(tokens, lengths, None, coins[:, :1]), coins, noise)
        first = torch.where(accepted.counts > 0, tokens[:, 0], accepted.next)
        return float((first == 0).double().mean())

    assert abs(zeros(1 - tokens[:, 0]) - 0.75) < 0.01
    assert abs(zeros(torch.randint(0, 2, (count,))) - 0.5) < 0.01


def test_impossible_lengths_are_refused(target: Target) -> None:
    with pytest.raises(UserError, match="outside 1 to 5"):
        Engine(target, make_drafter(target), draft_length="often")  # type: ignore[arg-type]
    assert Engine(target, None, draft_length="auto").draft_length == 0
