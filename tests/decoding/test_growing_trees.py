"""Trees of a drafter whose distributions depend on the path: EAGLE-3's, against every path drafted on its own."""

from __future__ import annotations

import heapq
import random

import pytest
import torch
from torch import Tensor

from paradraft.decoding import Engine, Sampling
from paradraft.decoding.draft import LevelSampler
from paradraft.drafters import Drafter, DraftState
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.evaluation.lossless import check_distribution
from paradraft.models import Target
from tests.conftest import make_drafter_of, make_model

TEXTS = [[4, 9, 2, 7, 7], [8], [1, 2, 3]]
ANCHORS = [5, 3, 10]


def small_target() -> Target:
    return Target(make_model("qwen3", vocab_size=12, initializer_range=0.15))


def observed(drafter: Drafter) -> DraftState:
    """Slots 2, 0, 1 have read a text each, the last tokens of which wait."""
    state = drafter.start(3, 120)
    slots = [2, 0, 1]
    longest = max(map(len, TEXTS))
    tokens = torch.tensor([[*text, *[0] * (longest - len(text))] for text in TEXTS])
    cache = drafter.target.new_slots(3, 16)
    output = drafter.target.forward(tokens, cache, drafter.feature_layers, slots)
    counts = torch.tensor([len(text) for text in TEXTS])
    cache.commit(counts)
    drafter.observe(state, slots, output.features, tokens, counts)
    more = torch.tensor([[6, 1], [2, 0], [3, 3]])
    output = drafter.target.forward(more, cache, drafter.feature_layers, slots)
    drafter.observe(state, slots, output.features, more, torch.tensor([2, 1, 2]))
    return state


def path_logits(drafter: Drafter, row: int, path: list[int]) -> Tensor:
    """Draft logits behind a path of draft ids: a chain that is forced to go along it."""
    seen: list[Tensor] = []

    def forced(logits: Tensor) -> tuple[Tensor, None]:
        seen.append(logits)
        return torch.tensor([[path[len(seen) - 1] if len(seen) <= len(path) else 0]]), None

    anchors = torch.tensor([ANCHORS[row]])
    drafter.propose(observed(drafter), [[2, 0, 1][row]], anchors, len(path) + 1, forced)
    return seen[-1][0, -1]


def best_paths(drafter: Drafter, row: int, nodes: int, depth: int) -> list[tuple[int, ...]]:
    """Popped from a heap of all children of what was popped before, likeliest first."""
    found: list[tuple[int, ...]] = []
    heap: list[tuple[float, tuple[int, ...]]] = []

    def push_children(score: float, path: tuple[int, ...]) -> None:
        if len(path) < depth:
            for token, value in enumerate(path_logits(drafter, row, list(path)).log_softmax(-1).tolist()):
                heapq.heappush(heap, (-(score + value), (*path, token)))

    push_children(0.0, ())
    while heap and len(found) < nodes:
        score, path = heapq.heappop(heap)
        found.append(path)
        push_children(-score, path)
    return found


def paths_of(tokens: list[int], parents: list[int]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for token, parent in zip(tokens, parents, strict=True):
        assert parent < len(found)
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize(("nodes", "depths"), [(1, [3, 3, 3]), (9, [4, 2, 3]), (14, [5, 5, 1])])
@torch.no_grad()
def test_the_tree_has_the_likeliest_paths(nodes: int, depths: list[int], reduced: bool) -> None:
    drafter = make_drafter_of("eagle3", small_target())
    if reduced:
        drafter.restrict(DraftVocabulary(torch.tensor([1, 4, 5, 9, 10]), 12))
    levels = LevelSampler([Sampling()] * 3, depths, nodes)
    drafter.propose_tree(observed(drafter), [2, 0, 1], torch.tensor(ANCHORS), max(depths), levels)
    tree = levels.growth.tree
    for row, depth in enumerate(depths):
        wanted = best_paths(drafter, row, nodes, depth)
        assert paths_of(tree.tokens[row].tolist(), tree.parents[row].tolist())[: len(wanted)] == wanted


@torch.no_grad()
def test_a_tree_leaves_no_trace() -> None:
    drafter = make_drafter_of("eagle3", small_target())
    state, anchors = observed(drafter), torch.tensor(ANCHORS)

    def chain() -> Tensor:
        return drafter.propose(state, [2, 0, 1], anchors, 4, lambda logits: (logits.argmax(-1), None)).tokens

    drafter.propose_tree(state, [2, 0, 1], anchors, 4, LevelSampler([Sampling()] * 3, [4] * 3, 8))
    after = chain()
    state = observed(drafter)
    assert torch.equal(chain(), after)


def test_greedy_texts_with_trees_are_the_targets() -> None:
    rng = random.Random(3)
    emitted = 0.0
    for seed in range(12):
        target = Target(make_model(rng.choice(["llama", "gemma2"]), seed, vocab_size=8, initializer_range=0.6))
        drafter = make_drafter_of("eagle3", target, rng.choice([1, 3, 6]), seed=seed)
        if rng.random() < 0.4:
            drafter.restrict(DraftVocabulary(torch.tensor([1, 3, 4, 6]), 8))
        prompts = [[rng.randrange(1, 8) for _ in range(rng.randint(1, 9))] for _ in range(5)]
        plain = Engine(target).generate(prompts, 30, ())
        engine = Engine(target, drafter, max_rows=rng.choice([None, 2]), tree=rng.choice([1, 4, 12]))
        drafted = engine.generate(prompts, 30, ())
        assert [g.tokens for g in drafted] == [g.tokens for g in plain]
        emitted += 29 * 5 / sum(len(g.rounds) for g in drafted) / 12
    assert emitted > 1.3


@pytest.mark.parametrize("rule", ["tree_residual", "tree"])
def test_sampled_trees_have_the_targets_distribution(rule: str) -> None:
    target = small_target()
    drafter = make_drafter_of("eagle3", target, 3)
    result = check_distribution(
        target, drafter, [[1, 2, 3], [7]], 20_000, Sampling(1.0), batch_size=5000, acceptance=rule, tree=6
    )
    assert result.passed and result.cells > 50, result
