"""From rounds to figures: emitted length with intervals, acceptance by position, the share of loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..decoding import Generation
from ..text.loops import is_looping

RESAMPLES = 2000


@dataclass(frozen=True)
class EmittedLength:
    """Tokens emitted per verify forward, the target's own token counted; `low`, `high`: 95% interval of micro."""

    micro: float | None
    macro: float | None
    low: float | None
    high: float | None
    non_looping: float | None


@dataclass(frozen=True)
class Acceptance:
    """Acceptance of each draft position: given that all before it were accepted, and in all rounds that drafted it."""

    conditional: list[float | None]
    unconditional: list[float | None]


def rounds_and_tokens(generations: Sequence[Generation]) -> tuple[np.ndarray, np.ndarray]:
    """Per generation: verify forwards and the tokens they emitted."""
    rounds = np.array([len(g.rounds) for g in generations], dtype=float)
    tokens = np.array([sum(r.emitted for r in g.rounds) for g in generations], dtype=float)
    return rounds, tokens


def of_prompts(values: np.ndarray, prompts: Sequence[int] | None) -> np.ndarray:
    """Sums over the answers to each prompt, of values of each answer; None: every answer has a prompt of its own.

    The turns of a conversation depend on each other, so a bootstrap draws conversations.
    """
    if prompts is None:
        return values
    return np.bincount(np.unique(prompts, return_inverse=True)[1], values)


def ratio(tokens: np.ndarray, rounds: np.ndarray) -> float | None:
    return float(tokens.sum() / rounds.sum()) if rounds.sum() else None


def resampled(count: int) -> np.ndarray:
    """[RESAMPLES, count] indices of a bootstrap over prompts."""
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def emitted_length(generations: Sequence[Generation], prompts: Sequence[int] | None = None) -> EmittedLength:
    """Micro: all tokens by all rounds; macro: mean over prompts; non_looping: micro of answers that do not loop.

    prompts: the number of the prompt that each answer belongs to; see `of_prompts`.
    """
    each_rounds, each_tokens = rounds_and_tokens(generations)
    rounds, tokens = of_prompts(each_rounds, prompts), of_prompts(each_tokens, prompts)
    used = rounds > 0
    if not used.any():
        return EmittedLength(None, None, None, None, None)
    straight = np.array([not is_looping(g.tokens) for g in generations])
    index = resampled(len(rounds))
    totals = rounds[index].sum(1)
    samples = tokens[index].sum(1)[totals > 0] / totals[totals > 0]
    low, high = np.percentile(samples, [2.5, 97.5])
    return EmittedLength(
        micro=ratio(tokens, rounds),
        macro=float((tokens[used] / rounds[used]).mean()),
        low=float(low),
        high=float(high),
        non_looping=ratio(each_tokens[straight], each_rounds[straight]),
    )


def mean_draft_length(generations: Sequence[Generation]) -> float | None:
    """Drafted tokens per verify forward, rounds without any included."""
    drafted = [len(r.drafted) for g in generations for r in g.rounds]
    return float(np.mean(drafted)) if drafted else None


def loop_share(generations: Sequence[Generation]) -> float:
    return float(np.mean([is_looping(g.tokens) for g in generations])) if generations else 0.0


def acceptance(generations: Sequence[Generation], steps: int) -> Acceptance:
    """Acceptance by position; of a round that the end of the text cuts short, only the emitted tokens count."""
    drafted, reached, accepted = np.zeros(steps), np.zeros(steps), np.zeros(steps)
    for generation in generations:
        for r in generation.rounds:
            judged = r.kept if r.clipped else r.reach
            drafted[:judged] += 1
            reached[: min(r.kept + 1, judged)] += 1
            accepted[: r.kept] += 1

    def shares(of: np.ndarray) -> list[float | None]:
        return [float(a / n) if n else None for a, n in zip(accepted, of, strict=True)]

    return Acceptance(shares(reached), shares(drafted))


def paired_difference(
    first: Sequence[Generation], second: Sequence[Generation], prompts: Sequence[int] | None = None
) -> tuple[float, float, float]:
    """Micro emitted length of `second` minus `first` on the same prompts, with its 95% bootstrap interval."""
    (r1, t1), (r2, t2) = (
        [of_prompts(values, prompts) for values in rounds_and_tokens(generations)] for generations in (first, second)
    )
    index = resampled(len(r1))
    samples = t2[index].sum(1) / r2[index].sum(1).clip(min=1) - t1[index].sum(1) / r1[index].sum(1).clip(min=1)
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(t2.sum() / max(1, r2.sum()) - t1.sum() / max(1, r1.sum())), float(low), float(high)
