"""Is decoding lossless? Tokens are compared at temperature 0; above it a goodness-of-fit test compares distributions.

In float32 drafted and plain tokens must be equal. In lower precision a verify forward of K + 1 tokens and K + 1
forwards of one token round differently: a first divergence where the target's two best logits lie within
rounding is a *tie*, any other is a *bug*, and the two are reported apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import chdtrc

from ..decoding import DraftLength, Engine, Generation, Sampling
from ..decoding.length import AUTO
from ..decoding.sampling import distribution
from ..drafters import Drafter
from ..errors import UserError
from ..models import Target

REJECT_BELOW = 1e-4
BATCH = 8  # prompts that are decoded together at temperature 0
DEPTH = 3  # tokens whose joint distribution is tested
MOST_CONTINUATIONS = 4000  # of so many tokens; the rest share a cell
SMALLEST_EXPECTED = 5.0  # of a cell of the chi-square test; rarer outcomes are pooled
# Relative rounding of logits by dtype: a gap of the two best below this share of their size is a tie.
TIE_GAP = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}

NOTHING_DRAFTED = (
    "nothing was drafted, so this says nothing of drafted decoding: --draft-length auto found drafting not worth its "
    "time here; give a number"
)

TOO_SHORT = "nothing was drafted in answers as short as these; raise --max-new-tokens to 3 or more"

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Divergence:
    """Where drafted and plain text first differ, and the target's gap between its two best logits there."""

    prompt: int
    position: int
    gap: float
    tie: bool


@dataclass(frozen=True)
class ExactResult:
    prompts: int
    tokens: int
    divergences: tuple[Divergence, ...]

    @property
    def passed(self) -> bool:
        return all(divergence.tie for divergence in self.divergences)


def check_exact(
    target: Target,
    drafter: Drafter,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    draft_length: DraftLength | None = None,
    acceptance: str | None = None,
    tree: int | None = None,
    advance: Advance = lambda prompts: None,
) -> ExactResult:
    """Greedy decoding of `prompts` (ids) with and without the drafter, token by token.

    One at a time with `draft_length` auto, which drafts less in a batch. UserError if nothing was drafted at all.
    """
    tokens, drafts, divergences = 0, 0, []
    together = 1 if draft_length == AUTO else BATCH
    for start in range(0, len(prompts), together):
        part = prompts[start : start + together]
        plain = Engine(target).generate(part, max_new_tokens)
        engine = Engine(target, drafter, draft_length=draft_length, acceptance=acceptance, tree=tree)
        drafted = engine.generate(part, max_new_tokens)
        for i, (a, b) in enumerate(zip(plain, drafted, strict=True)):
            tokens += len(a.tokens)
            drafts += drafted_tokens(b)
            if a.tokens != b.tokens:
                divergences.append(examine_divergence(target, start + i, part[i], a.tokens, b.tokens))
        advance(len(part))
    if not drafts:
        raise UserError(NOTHING_DRAFTED if draft_length == AUTO else TOO_SHORT)
    return ExactResult(len(prompts), tokens, tuple(divergences))


def drafted_tokens(generation: Generation) -> int:
    return sum(len(r.drafted) for r in generation.rounds)


def examine_divergence(
    target: Target, number: int, prompt: list[int], plain: list[int], drafted: list[int]
) -> Divergence:
    position = next((i for i, (a, b) in enumerate(zip(plain, drafted, strict=False)) if a != b), None)
    if position is None:  # one text is a prefix of the other: ends are never a matter of rounding
        return Divergence(number, min(len(plain), len(drafted)), float("inf"), tie=False)
    ids = torch.tensor([prompt + plain[:position]], device=target.device)
    logits = target.logits(ids, torch.zeros_like(ids))[0, -1].float()
    best, second = logits.topk(2).values.tolist()
    chosen = {plain[position], drafted[position]} == set(logits.topk(2).indices.tolist())
    tie = chosen and best - second <= TIE_GAP[target.dtype] * max(1.0, abs(best))
    return Divergence(number, position, best - second, tie)


@dataclass(frozen=True)
class DistributionResult:
    """Chi-square test of the joint distribution of the first tokens, summed over prompts."""

    samples: int
    cells: int
    statistic: float
    degrees: int
    p_value: float

    @property
    def passed(self) -> bool:
        return self.p_value >= REJECT_BELOW


def likely_continuations(
    target: Target, prompt: list[int], depth: int, sampling: Sampling, smallest: float
) -> dict[tuple[int, ...], float]:
    """Every continuation of `depth` tokens with probability >= `smallest`, computed exactly; the likeliest alone."""
    level: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(depth):
        following: dict[tuple[int, ...], float] = {}
        prefixes = list(level)
        for start in range(0, len(prefixes), 64):
            part = prefixes[start : start + 64]
            ids = torch.tensor([[*prompt, *prefix] for prefix in part], device=target.device)
            probabilities = distribution(target.logits(ids, torch.zeros_like(ids))[:, -1], sampling).double()
            for prefix, row in zip(part, probabilities, strict=True):
                likely = (row * level[prefix] >= smallest).nonzero().flatten()
                for token, p in zip(likely.tolist(), row[likely].tolist(), strict=True):
                    longer = (*prefix, token)
                    following[longer] = p * level[prefix]
        level = dict(sorted(following.items(), key=lambda item: -item[1])[:MOST_CONTINUATIONS])
    return level


def undecided_starts(
    target: Target, prompts: Sequence[list[int]], sampling: Sampling, behind: int, tokens: int = 48
) -> list[list[int]]:
    """Each prompt with the start of an answer, up to the place where the target is least sure of its next token.

    The start has at most `tokens`, fewer where `behind` more would not fit the context after it.

    Where the target is sure, sampling is not tested. The answers are sampled without a drafter, so the choice of the
    place does not depend on what is tested.
    """
    starts = []
    room = target.context_length - max(map(len, prompts)) - behind
    answers = Engine(target, sampling=sampling).generate(prompts, max(1, min(tokens, room)))
    for prompt, answer in zip(prompts, answers, strict=True):
        written = answer.tokens[: len(answer.tokens) - answer.stopped]
        ids = torch.tensor([[*prompt, *written]], device=target.device)
        probabilities = distribution(target.logits(ids, torch.zeros_like(ids))[0, len(prompt) - 1 :], sampling)
        entropy = torch.special.entr(probabilities).sum(-1)
        starts.append([*prompt, *written[: int(entropy.argmax())]])
    return starts


def check_distribution(
    target: Target,
    drafter: Drafter | None,
    prompts: Sequence[list[int]],
    samples: int,
    sampling: Sampling,
    batch_size: int = 512,
    draft_length: DraftLength | None = None,
    acceptance: str | None = None,
    tree: int | None = None,
    advance: Advance = lambda samples: None,
) -> DistributionResult:
    """Sample `samples` continuations over all `prompts` and compare the first DEPTH tokens with the target's own.

    Cells are chosen from the target's probabilities alone, before any sample is seen. UserError if the drafter drafted
    nothing.
    """
    each = samples // len(prompts)
    engine = Engine(target, drafter, sampling, draft_length, acceptance=acceptance, tree=tree)
    statistic, degrees, cells, drafts = 0.0, 0, 0, 0
    for prompt in prompts:
        expected = likely_continuations(target, prompt, DEPTH, sampling, SMALLEST_EXPECTED / each)
        counts = dict.fromkeys(expected, 0)
        for start in range(0, each, batch_size):
            rows = min(batch_size, each - start)
            # Room for whole rounds: a limit at DEPTH would shorten the drafts that are to be tested.
            for generation in engine.generate([prompt], DEPTH + engine.draft_length, (), rows, enough=DEPTH):
                found = tuple(generation.tokens[:DEPTH])
                drafts += drafted_tokens(generation)
                if found in counts:
                    counts[found] += 1
            advance(rows)
        observed = [*counts.values(), each - sum(counts.values())]
        wanted = [p * each for p in expected.values()]
        wanted.append(max(0.0, each - sum(wanted)))
        if wanted[-1] < SMALLEST_EXPECTED:  # too rare for a cell of its own: added to the rarest one
            observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
        statistic += sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True) if w > 0)
        degrees += len(wanted) - 1
        cells += len(wanted)
    if degrees == 0:
        raise UserError(
            f"{each} samples a prompt test nothing here: after these prompts the target is either sure of its next "
            f"tokens, or so undecided that none is expected {SMALLEST_EXPECTED:g} times; give other prompts, or raise "
            "--samples"
        )
    if drafter is not None and not drafts:
        raise UserError(NOTHING_DRAFTED if draft_length == AUTO else TOO_SHORT)
    return DistributionResult(samples, cells, statistic, degrees, float(chdtrc(max(1, degrees), statistic)))
