"""Key/value slots: sequences that come and go, trees, and what is refused."""

from __future__ import annotations

import pytest
import torch

from paradraft.models import KeyValueSlots, Target
from paradraft.models.slots import ancestors


def logits_behind(target: Target, text: list[int]) -> torch.Tensor:
    return target.logits(torch.tensor([text]), torch.zeros(1, len(text), dtype=torch.long))[0, -1]


def feed(target: Target, cache: KeyValueSlots, slots: list[int], texts: list[list[int]]) -> torch.Tensor:
    output = target.forward(torch.tensor(texts), cache, slots=slots)
    cache.commit(torch.tensor([len(text) for text in texts]))
    return output.logits[:, -1]


def test_sequences_come_and_go(target: Target) -> None:
    """Slots in any order, a slot that is used again, one copied, buffers that grow and shrink: nobody notices."""
    cache = target.new_slots(3, 8)
    feed(target, cache, [0, 1, 2], [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    cache.release([1])
    found = feed(target, cache, [2, 0], [[10], [11]])  # a hole between them
    torch.testing.assert_close(found[0], logits_behind(target, [7, 8, 9, 10]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], logits_behind(target, [1, 2, 3, 11]), rtol=1e-4, atol=1e-4)
    cache.resize(5, 32)
    cache.resize(3, 16)
    assert cache.lengths.tolist() == [4, 0, 4, 0, 0] and cache.capacity == 16
    feed(target, cache, [1], [[12, 13, 14, 15, 16, 17]])
    cache.copy(2, [3, 4])
    found = feed(target, cache, [1, 2, 3, 4], [[18], [19], [20], [21]])
    texts = [[12, 13, 14, 15, 16, 17, 18], *([7, 8, 9, 10, token] for token in (19, 20, 21))]
    for row, text in enumerate(texts):
        torch.testing.assert_close(found[row], logits_behind(target, text), rtol=1e-4, atol=1e-4)


def test_a_slot_that_leaves_copies_nothing(target: Target) -> None:
    cache = target.new_slots(3, 8)
    feed(target, cache, [0, 1, 2], [[1, 2], [3, 4], [5, 6]])
    buffers = [layer.keys for layer in cache.layers]
    cache.release([0])
    feed(target, cache, [1, 2], [[7], [8]])
    assert all(layer.keys is buffer for layer, buffer in zip(cache.layers, buffers, strict=True))
    assert cache.reserved(buffers[0]).data_ptr() == buffers[0][1].data_ptr()  # side by side: a view


def test_nodes_of_a_tree_see_their_ancestors_and_a_kept_path_moves_to_the_front(target: Target) -> None:
    cache = target.new_slots(2, 16)
    feed(target, cache, [0, 1], [[1, 2, 3], [4, 5, 6]])
    cache.lengths[1] = 2  # ragged
    prefixes = [[1, 2, 3], [4, 5]]
    #          0 -> 1 -> 3 -> 4          0 -> 1, 0 -> 2 -> 3 -> 4
    #            -> 2
    parents = torch.tensor([[-1, 0, 0, 1, 3], [-1, 0, 0, 2, 3]])
    tokens = torch.tensor([[7, 8, 9, 10, 11], [12, 13, 14, 15, 16]])
    output = target.forward(tokens, cache, parents=parents)
    paths = [[[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 3, 4]], [[0], [0, 1], [0, 2], [0, 2, 3], [0, 2, 3, 4]]]
    for row in range(2):
        for node, path in enumerate(paths[row]):
            wanted = logits_behind(target, prefixes[row] + tokens[row, path].tolist())
            torch.testing.assert_close(output.logits[row, node], wanted, rtol=1e-4, atol=1e-4)
    cache.commit(torch.tensor([3, 3]), torch.tensor([[0, 1, 3], [0, 2, 3]]))
    found = feed(target, cache, [0, 1], [[20], [21]])
    for row, text in enumerate(([1, 2, 3, 7, 8, 10, 20], [4, 5, 12, 14, 15, 21])):
        torch.testing.assert_close(found[row], logits_behind(target, text), rtol=1e-4, atol=1e-4)


def test_ancestors_include_the_node() -> None:
    family = ancestors(torch.tensor([[-1, 0, 1, 1, 3]]))[0].int()
    assert family.tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]


def test_slots_refuse_more_than_they_hold() -> None:
    cache = KeyValueSlots(1, 2, 4)
    cache.lengths = torch.tensor([3, 1])
    with pytest.raises(ValueError, match="hold 4 tokens"):
        cache.reserve(None, 2)
