"""Planted faults: for each, a line of the code is changed in place, and a check that passes must then fail.

The list is FAULTS. The checks are those of the other tests of this folder, at a size that takes a second.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.lossless_cases import run_cases
from paradraft.decoding import Engine, Request, Sampling, acceptance, tree, tree_acceptance
from paradraft.decoding.draft import Accepted
from paradraft.models import Target, slots
from tests.conftest import make_drafter_of, make_model
from tests.decoding.enumeration import World, committed, largest_difference
from tests.decoding.test_joint import EXACT, TREES, error_of, tree_of
from tests.decoding.test_tree import EXAMPLE, built, expected_length
from tests.decoding.test_tree_engine import misremembered

PROMPTS = [[4, 2], [3], [1, 2, 3, 4, 5]]


def small() -> Target:
    """A vocabulary of 8, of which trees cover so much that long paths are kept; its texts do not loop at once."""
    return Target(make_model("qwen3", 1, vocab_size=8, initializer_range=0.6, num_hidden_layers=3))


def greedy_text_is_plain_text() -> bool:
    target = small()
    plain = Engine(target).generate(PROMPTS, 20, ())
    drafter = make_drafter_of("dflash", target)
    assert all(len({*zip(g.tokens, g.tokens[1:], strict=False)}) > 6 for g in plain)
    return all(
        [g.tokens for g in Engine(target, drafter, tree=nodes).generate(PROMPTS, 20, ())] == [g.tokens for g in plain]
        for nodes in (5, 24)
    )


def what_was_kept_is_remembered() -> bool:
    target = Target(make_model("qwen3", vocab_size=12, initializer_range=0.15))
    return misremembered(target, make_drafter_of("dflash", target))[0] == 0


def text_is_its_own() -> bool:
    target = small()
    drafter = make_drafter_of("dflash", target)
    requests = [Request(prompt, 12, Sampling(1.0), frozenset(), seed=3) for prompt in PROMPTS]
    for nodes in (None, 7):
        engine = Engine(target, drafter, tree=nodes)
        together = [engine.add(request) for request in requests]
        while not engine.scheduler.idle:
            engine.step()
        alone = engine.add(requests[2])
        while not engine.scheduler.idle:
            engine.step()
        if alone.generation.tokens != together[2].generation.tokens:
            return False
    return True


def chain_is_lossless() -> bool:
    return error_of(acceptance.chain, World(3, 2, seed=3), True)[0] < EXACT


def block_is_lossless() -> bool:
    return error_of(acceptance.block, World(3, 2, seed=2), True)[0] < EXACT


def trees_are_lossless() -> bool:
    world, errors = World(3, 3, seed=1), []
    for rule in (tree_acceptance.tree_residual, tree_acceptance.tree):
        found, _ = committed(rule, *tree_of(world, TREES["one deep"], padding=1))
        errors.append(largest_difference(world.continued(found), world.joint()))
    return max(errors) < EXACT


def the_tree_is_the_best() -> bool:
    """Of one row, from a heap, and of many, level by level."""
    found = [expected_length(EXAMPLE.log(), built(EXAMPLE.log(), 6, rows)) for rows in (1, tree.FEW + 1)]
    return found == pytest.approx([1.818, 1.818])


@dataclass(frozen=True)
class Fault:
    """In the source of `owner.name`, `right` becomes `wrong`; `check` must notice."""

    owner: Any
    name: str
    right: str
    wrong: str
    check: Callable[[], bool]


FAULTS = {
    "a node sees its siblings": Fault(
        slots,
        "ancestors",
        "    return family",
        "    return torch.ones_like(family).tril()",
        greedy_text_is_plain_text,
    ),
    "positions count nodes instead of depth": Fault(
        slots, "sight", "starts[:, None] + family.sum(-1) - 1", "places", greedy_text_is_plain_text
    ),
    "the path is one node off": Fault(
        tree_acceptance,
        "kept_path",
        "argsort(dim=1, stable=True)",
        "argsort(dim=1, stable=True).sub(1).clamp(min=0)",
        greedy_text_is_plain_text,
    ),
    "the target's own token is missing": Fault(
        acceptance,
        "follow_tree",
        "at(path, counts)",
        "at(path, (counts - 1).clamp(min=0))",
        greedy_text_is_plain_text,
    ),
    "kept keys and values stay where they were": Fault(
        slots.KeyValueSlots, "commit", "starts + path]", "places]", greedy_text_is_plain_text
    ),
    "the drafter gets the features of other nodes": Fault(
        Accepted,
        "along",
        "if self.path is None:",
        "if self.path is None or values.is_floating_point():",
        what_was_kept_is_remembered,
    ),
    "noise goes by the place in the batch": Fault(
        Engine, "_noise", "noise(keys, drawn", "noise(range(len(keys)), drawn", text_is_its_own
    ),
    "after a rejection p is sampled instead of the residual": Fault(
        acceptance, "ended", "torch.where(rejected[:, None], residual, at_end)", "at_end", chain_is_lossless
    ),
    "inner prefixes of a block pass as the whole one does": Fault(
        acceptance, "block", "surplus / whole", "behind", block_is_lossless
    ),
    "the residual of a block is that of p, not of what is left of it": Fault(
        acceptance, "block", "at(torch.stack(survival, dim=1), counts)", "p.new_ones(len(p))", block_is_lossless
    ),
    "a sibling is tried as if none had been tried before": Fault(
        tree_acceptance, "tree_residual", "noise.accept * (1 - tried)", "noise.accept", trees_are_lossless
    ),
    "a rejected child may still be the target's own token": Fault(
        tree_acceptance, "tree_residual", "> 0, 0.0)", "> 2, 0.0)", trees_are_lossless
    ),
    "one number decides at every depth": Fault(
        tree_acceptance, "tree", "depths_of(draft.parents)", "depths_of(draft.parents) * 0", trees_are_lossless
    ),
    "only the best node has children": Fault(
        tree, "candidates", "range(min(parents, room))", "range(1)", the_tree_is_the_best
    ),
    "a node of a single row has no second child": Fault(
        tree, "popped", "if rank + 1 < len(values[step]):", "if False:", the_tree_is_the_best
    ),
}


@pytest.mark.parametrize("check", sorted({fault.check for fault in FAULTS.values()}, key=lambda check: check.__name__))
def test_without_a_fault_the_check_passes(check: Callable[[], bool]) -> None:
    assert check()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_caught(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(fault.owner, fault.name)
    source = textwrap.dedent(inspect.getsource(right))
    assert source.count(fault.right) == 1
    namespace = dict(vars(sys.modules[right.__module__]))
    exec("from __future__ import annotations\n" + source.replace(fault.right, fault.wrong), namespace)
    monkeypatch.setattr(fault.owner, fault.name, namespace[fault.name])
    assert not fault.check()


def test_random_cases() -> None:
    """A sample of `python benchmarks/lossless_cases.py`, which runs 10,000."""
    for seed in (1, 5):  # of drafters that can be helped, and so keep drafts
        outcome = run_cases(seed, texts=4, ways=3)
        assert not outcome.mismatches and not outcome.ties
        assert outcome.cases.total() >= 12
        assert sum(outcome.accepted[n] for n in range(1, 9)) > outcome.accepted[0] / 4
