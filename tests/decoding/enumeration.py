"""Exact outcome probabilities of anything that decides by comparing noise: integrals instead of samples.

What a rule does is constant on boxes of its noise. The integrator finds their sides by bisection, one number of the
noise after the other, and asks the rule itself, so it finds what the rule really does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from paradraft.decoding.acceptance import Rule
from paradraft.decoding.draft import Draft, Noise
from paradraft.decoding.tree_acceptance import tree

RANDOM, GRID, HALVINGS = 16, 17, 56
LARGEST = 1 - 2.0**-53


def integrate(
    decide: Callable[[Tensor, Tensor], Tensor], weights: Tensor, numbers: int
) -> dict[tuple[int, int], float]:
    """{(case, outcome): probability}; `decide` maps cases [n] and noise [n, numbers] to outcomes [n], whole numbers.

    weights [cases]: their probabilities, which sum to 1.
    """
    probes = probes_of(numbers)
    count = len(probes)
    cases, fixed, mass = torch.arange(len(weights)), weights.new_zeros(len(weights), 0), weights
    for number in range(numbers):

        def seen(
            pieces: Tensor, values: Tensor, number: int = number, cases: Tensor = cases, fixed: Tensor = fixed
        ) -> Tensor:
            """[n, probes]: outcomes of pieces [n] with values [n] of this number, for some values of those to come."""
            n = len(pieces)
            known = torch.cat((fixed[pieces], values[:, None]), dim=1)[:, None].expand(n, count, -1)
            coming = probes[None, :, number + 1 :].expand(n, -1, -1)
            noise = torch.cat((known, coming), dim=2).reshape(n * count, numbers)
            return decide(cases[pieces].repeat_interleave(count), noise).view(n, count)

        sides = sides_of(seen, len(cases))
        parents, low, high = [], [], []
        for piece, places in enumerate(sides):
            for a, b in zip([0.0, *places], [*places, 1.0], strict=True):
                parents.append(piece), low.append(a), high.append(b)
        index, (lows, highs) = torch.tensor(parents), torch.tensor((low, high), dtype=torch.float64)
        cases, mass = cases[index], mass[index] * (highs - lows)
        fixed = torch.cat((fixed[index], ((lows + highs) / 2)[:, None]), dim=1)
    found: dict[tuple[int, int], float] = defaultdict(float)
    for case, outcome, p in zip(cases.tolist(), decide(cases, fixed).tolist(), mass.tolist(), strict=True):
        found[case, outcome] += p
    return found


def probes_of(numbers: int) -> Tensor:
    """All corners of the noise, where rare decisions show, and some places in between."""
    corners = torch.tensor(list(product((0.0, LARGEST), repeat=numbers)), dtype=torch.float64)
    between = torch.rand(RANDOM, numbers, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.cat((corners, between))


def sides_of(seen: Callable[[Tensor, Tensor], Tensor], count: int) -> list[list[float]]:
    """Where the outcomes of each of `count` pieces change, ascending."""
    grid = torch.linspace(0, LARGEST, GRID, dtype=torch.float64)
    pieces = torch.arange(count).repeat_interleave(GRID)
    outcomes = seen(pieces, grid.repeat(count)).view(count, GRID, -1)
    changes = (outcomes[:, 1:] != outcomes[:, :-1]).any(-1).nonzero()
    piece, low, end = changes[:, 0], grid[changes[:, 1]], grid[changes[:, 1] + 1]
    found: list[list[float]] = [[] for _ in range(count)]
    while len(piece):
        wanted, a, b = seen(piece, low), low, end
        for _ in range(HALVINGS):
            middle = (a + b) / 2
            same = (seen(piece, middle) == wanted).all(-1)
            a, b = torch.where(same, middle, a), torch.where(same, b, middle)
        for row, place in zip(piece.tolist(), b.tolist(), strict=True):
            found[row].append(place)
        more = (seen(piece, b) != seen(piece, end)).any(-1)  # another change in the same cell
        piece, low, end = piece[more], b[more], end[more]
    return [sorted(places) for places in found]


class World:
    """A target and a drafter over a tiny vocabulary: p after every prefix, q of every step, all in float64."""

    def __init__(self, vocabulary: int, depth: int, seed: int, sharpness: float = 1.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vocabulary, self.depth = vocabulary, depth
        self.p: dict[tuple[int, ...], Tensor] = {}
        for length in range(depth + 1):
            for prefix in product(range(vocabulary), repeat=length):
                logits = sharpness * torch.randn(vocabulary, dtype=torch.float64, generator=generator)
                self.p[prefix] = logits.softmax(-1)
        self.q = {prefix: sharpened(p, generator) for prefix, p in self.p.items()}

    def joint(self) -> dict[tuple[int, ...], float]:
        """The target's own distribution of the next depth + 1 tokens."""
        texts = product(range(self.vocabulary), repeat=self.depth + 1)
        return {text: self.likelihood((), text) for text in texts}

    def likelihood(self, prefix: tuple[int, ...], text: tuple[int, ...]) -> float:
        """p(text | prefix)."""
        likelihood = 1.0
        for n, token in enumerate(text):
            likelihood *= float(self.p[prefix + text[:n]][token])
        return likelihood

    def continued(self, committed: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], float]:
        """The distribution of depth + 1 tokens if what was committed is continued by the target."""
        found: dict[tuple[int, ...], float] = defaultdict(float)
        for prefix, mass in committed.items():
            for rest in product(range(self.vocabulary), repeat=self.depth + 1 - len(prefix)):
                found[prefix + rest] += mass * self.likelihood(prefix, rest)
        return found


def sharpened(p: Tensor, generator: torch.Generator) -> Tensor:
    """A draft distribution that is like p, more or less."""
    other = torch.rand(len(p), dtype=torch.float64, generator=generator) + 0.05
    return (p * other) / (p * other).sum()


def committed(
    rule: Rule, drafts: Draft, weights: Tensor, targets: Tensor
) -> tuple[dict[tuple[int, ...], float], float]:
    """What a rule commits, with probabilities, over drafts [cases, N] of `weights` [cases]; and its mean length.

    targets [cases, N+1, V] are p after the newest token and after each drafted one. The integral goes through the noise
    in the order in which the rule uses it: `tree` draws at the newest token first, and with the number `last`.
    """
    nodes, vocabulary = drafts.tokens.shape[1], targets.shape[-1]
    base = vocabulary + 1

    def decide(cases: Tensor, numbers: Tensor) -> Tensor:
        pick = [
            None if t is None else t[cases]
            for t in (drafts.tokens, drafts.lengths, drafts.parents, drafts.probabilities)
        ]
        assert pick[0] is not None and pick[1] is not None
        chosen = Draft(pick[0], pick[1], pick[2], pick[3])
        noise = Noise(numbers[:, 1:], numbers[:, 0]) if rule is tree else Noise(numbers[:, :-1], numbers[:, -1])
        accepted = rule(chosen, targets[cases], noise)
        outcome = torch.zeros(len(cases), dtype=torch.long)
        for place in range(nodes):
            token = chosen.tokens[:, place]
            if accepted.path is not None:
                index = (accepted.path[:, place + 1] - 1).clamp(min=0)
                token = chosen.tokens.gather(1, index[:, None]).squeeze(1)
            outcome = torch.where(place < accepted.counts, outcome * base + token + 1, outcome)
        return outcome * base + accepted.next + 1

    found: dict[tuple[int, ...], float] = defaultdict(float)
    for (_, outcome), mass in integrate(decide, weights, nodes + 1).items():
        tokens: list[int] = []
        while outcome:
            tokens.append(outcome % base - 1)
            outcome //= base
        found[tuple(reversed(tokens))] += mass
    return found, sum(len(text) * mass for text, mass in found.items())


def largest_difference(a: dict[tuple[int, ...], float], b: dict[tuple[int, ...], float]) -> float:
    return max(abs(a.get(key, 0.0) - b.get(key, 0.0)) for key in a.keys() | b.keys())
