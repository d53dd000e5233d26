"""Trees of drafts: the best nodes under a budget, against a heap, every subset, and the worked example."""

from __future__ import annotations

import heapq
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from paradraft.decoding.tree import best_tree, depths_of, kept_path, tree_size

Path = tuple[int, ...]  # ranks from the root on

EXAMPLE = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.7, 0.2, 0.1]], dtype=torch.float64)


def popped(log_probabilities: Tensor, nodes: int) -> list[Path]:
    """The oracle: a heap of candidates; a node that is popped adds its next sibling and its likeliest child."""
    values = log_probabilities.sort(dim=-1, descending=True).values.tolist()
    heap, found = [(-values[0][0], (0,))], []
    while heap and len(found) < nodes:
        score, path = heapq.heappop(heap)
        found.append(path)
        *before, rank = path
        step = values[len(before)]
        if rank + 1 < len(step):
            heapq.heappush(heap, (score + step[rank] - step[rank + 1], (*before, rank + 1)))
        if len(path) < len(values):
            heapq.heappush(heap, (score - values[len(path)][0], (*path, 0)))
    return found


def expanded(log_probabilities: Tensor, nodes: int, width: int) -> list[Path]:
    """JetSpec's way, for comparison: take the best node and add all of its children, while there is room."""
    values = log_probabilities.sort(dim=-1, descending=True).values[:, :width].tolist()
    heap, found = [(0.0, ())], []
    while heap and len(found) < nodes:
        score, path = heapq.heappop(heap)
        if len(path) < len(values):
            for rank, value in enumerate(values[len(path)][: nodes - len(found)]):
                found.append((*path, rank))
                heapq.heappush(heap, (score - value, (*path, rank)))
    return found


def expected_length(log_probabilities: Tensor, paths: list[Path]) -> float:
    """The sum of the path probabilities; paths of ranks."""
    values = log_probabilities.sort(dim=-1, descending=True).values.exp()
    return float(sum(values[range(len(path)), list(path)].prod() for path in paths))


def paths_of(tokens: Tensor, parents: Tensor) -> list[Path]:
    """Texts of the nodes of one row; a parent must stand before its children."""
    found: list[Path] = []
    for token, parent in zip(tokens.tolist(), parents.tolist(), strict=True):
        assert parent < len(found)
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


def built(log_probabilities: Tensor, nodes: int, rows: int = 1) -> list[Path]:
    """From a heap, or for more than FEW rows level by level."""
    tree = best_tree(log_probabilities.expand(rows, -1, -1), [len(log_probabilities)] * rows, nodes)
    return paths_of(tree.tokens[-1], tree.parents[-1])


@pytest.fixture(params=[0, 8], ids=["levels", "heap"], autouse=True)
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of all rows level by level, and of each row from a heap."""
    monkeypatch.setattr("paradraft.decoding.tree.FEW", request.param)


def test_the_worked_example() -> None:
    """The newest committed token takes one slot; ranks are tokens here, since the steps are sorted."""
    example = EXAMPLE.log()
    for slots, best, all_children in ((7, 1.818, 1.710), (5, 1.440, 1.440)):
        assert expected_length(example, built(example, slots - 1)) == pytest.approx(best)
        assert expected_length(example, popped(example, slots - 1)) == pytest.approx(best)
        assert expected_length(example, expanded(example, slots - 1, 2)) == pytest.approx(all_children)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_tree_is_that_of_the_heap(sharpness: float) -> None:
    torch.manual_seed(0)
    for steps, vocabulary, nodes in ((1, 5, 3), (4, 7, 10), (15, 40, 1), (6, 30, 32), (15, 50, 64), (3, 2, 14)):
        several = (sharpness * torch.randn(4, steps, vocabulary, dtype=torch.float64)).log_softmax(-1)
        trees = best_tree(several, [steps] * 4, nodes)
        for row in range(4):
            order = several[row].argsort(dim=-1, descending=True).tolist()
            wanted = [tuple(order[d][rank] for d, rank in enumerate(path)) for path in popped(several[row], nodes)]
            assert paths_of(trees.tokens[row], trees.parents[row])[:nodes] == wanted


def test_no_other_tree_of_that_size_is_better() -> None:
    """All sets of nodes in which no child is without its parent."""
    torch.manual_seed(1)
    log_probabilities = torch.randn(3, 2, dtype=torch.float64).log_softmax(-1)
    every = [path for depth in (1, 2, 3) for path in product(range(2), repeat=depth)]
    for nodes in (1, 2, 3, 4, 5):
        sums = [
            expected_length(log_probabilities, list(chosen))
            for chosen in combinations(every, nodes)
            if all(path[:-1] in chosen for path in chosen if len(path) > 1)
        ]
        ranks = popped(log_probabilities, nodes)
        assert expected_length(log_probabilities, ranks) == pytest.approx(max(sums))
        assert sorted(map(len, ranks)) == sorted(map(len, built(log_probabilities, nodes)))


def test_ties_and_impossible_tokens_leave_it_a_tree() -> None:
    """Equal scores everywhere, certain tokens (a child is as likely as its parent), and tokens of probability zero."""
    for values in (torch.zeros(5, 6), torch.tensor([0.0, float("-inf"), float("-inf")]).expand(4, 3)):
        for nodes in (1, 3, 8, 11):
            paths = built(values, nodes)
            assert len(set(paths)) == len(paths) >= nodes


def test_a_row_is_no_deeper_than_it_may_be_and_does_not_know_the_others() -> None:
    torch.manual_seed(2)
    log_probabilities = torch.randn(3, 6, 4).log_softmax(-1)
    together = best_tree(log_probabilities, [1, 2, 6], 12)
    for row, depth in enumerate((1, 2, 6)):
        size = tree_size(12, depth, 4)
        alone = best_tree(log_probabilities[row : row + 1, :depth], [depth], 12)
        paths = paths_of(together.tokens[row, :size], together.parents[row, :size])
        assert paths == paths_of(alone.tokens[0, :size], alone.parents[0, :size])
        assert max(map(len, paths)) <= depth and len(set(paths)) == size
    assert [tree_size(12, depth, 4) for depth in (0, 1, 2, 6)] == [0, 4, 12, 12]
    assert tree_size(30, 4, 2) == 30 and tree_size(31, 4, 2) == 30


def test_depths_and_kept_paths() -> None:
    #                        1 -> 3 -> 5, 1 -> 4, 2
    parents = torch.tensor([[-1, -1, 0, 0, 2]])
    assert depths_of(parents).tolist() == [[0, 1, 1, 2, 2, 3]]
    for agreeing, kept in (([], []), ([1, 3, 5], [1, 3, 5]), ([2, 3, 5], [2]), ([1, 4, 5], [1, 4]), ([3, 5], [])):
        agreed = torch.zeros(1, 5, dtype=torch.bool)
        agreed[0, [node - 1 for node in agreeing]] = True
        counts, path = kept_path(parents, agreed)
        assert counts.tolist() == [len(kept)] and path[0, : 1 + len(kept)].tolist() == [0, *kept]
    long = torch.arange(-1, 69)[None]
    assert depths_of(long)[0, -1] == 70
    assert kept_path(long, torch.ones(1, 70, dtype=torch.bool))[0].tolist() == [70]
