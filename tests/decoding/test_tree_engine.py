"""Trees in the engine: what it drafts, what it keeps, and what it remembers of what it kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paradraft.decoding import Engine, Request, Sampling
from paradraft.decoding.logprobs import Logprob
from paradraft.decoding.tree import best_tree
from paradraft.drafters import Drafter
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.errors import UserError
from paradraft.models import Target
from tests.conftest import make_drafter_of, make_model

PARALLEL: list[tuple[str, dict[str, Any]]] = [("dflash", {}), ("dflash", {"causal": True}), ("pard", {}), ("pard2", {})]
PROMPTS = [[4, 9, 2], [8], [1, 2, 3, 4, 5], [10, 10]]


@pytest.fixture
def small() -> Target:
    """A vocabulary of 12, of which a tree covers enough that long paths are kept."""
    return Target(make_model("qwen3", vocab_size=12, initializer_range=0.15))


def misremembered(target: Target, drafter: Drafter) -> tuple[int, int]:
    """Rounds that draft other trees than an engine that gets the text so far as a prompt, and rounds that moved nodes.

    What is kept of a tree must be remembered as if it had been read: keys, values and features.
    """
    engine = Engine(target, drafter, tree=20)
    wrong = moved = 0
    for prompt, generation in zip(PROMPTS[:2], engine.generate(PROMPTS[:2], 20, ()), strict=True):
        done = 1
        for r in generation.rounds:
            text = [*prompt, *generation.tokens[: done - 1]]
            fresh = engine.generate([text], 20 - done + 1, (), enough=2)[0]
            wrong += fresh.rounds[0].drafted != r.drafted or fresh.rounds[0].accepted != r.accepted
            moved += generation.tokens[done : done + r.accepted] != list(r.drafted[: r.accepted])
            done += r.emitted
    return wrong, moved


@pytest.mark.parametrize(("kind", "own"), [*PARALLEL, ("eagle3", {})])
def test_what_was_kept_is_remembered_as_if_it_had_been_read(small: Target, kind: str, own: dict[str, Any]) -> None:
    wrong, moved = misremembered(small, make_drafter_of(kind, small, **own))
    assert not wrong and moved > 2


@pytest.mark.parametrize(("kind", "own"), PARALLEL)
def test_a_round_drafts_the_best_tree(small: Target, kind: str, own: dict[str, Any]) -> None:
    """Of the logits that a chain's drafts are the argmax of; and no deeper than the answer may grow."""
    drafter = make_drafter_of(kind, small, **own)
    seen: list[torch.Tensor] = []

    def watched(logits: torch.Tensor) -> tuple[torch.Tensor, None]:
        seen.append(logits)
        return logits.argmax(-1), None

    engine = Engine(small, drafter, tree=9)
    sequence = engine.add(Request([4, 9, 2], 4, stops=frozenset()))
    engine.scheduler.admit()
    with small.decoding():
        engine._make_room([sequence], True)
        engine._prefill([sequence])
        assert engine._drafting is not None
        state, anchors = engine._drafting.state, torch.tensor([sequence.anchor])
        tree = engine._drafting.tree([0], anchors, [2], [Sampling()], [9])
        drafter.set_mode(drafter.mode)
        fresh = drafter.start(1, 40)
        output = small.forward(torch.tensor([[4, 9, 2]]), small.new_slots(1, 8), drafter.feature_layers)
        drafter.observe(fresh, [0], output.features, torch.tensor([[4, 9, 2]]), torch.tensor([3]))
        drafter.propose(fresh, [0], anchors, engine.draft_length, watched)
    wanted = best_tree(seen[0].log_softmax(-1), [2], 9)
    assert state is not fresh and tree.parents is not None
    assert torch.equal(tree.tokens, wanted.tokens[:, :9]) and torch.equal(tree.parents, wanted.parents[:, :9])


def restricted(drafter: Drafter, ids: list[int]) -> Drafter:
    drafter.restrict(DraftVocabulary(torch.tensor(ids), drafter.target.vocabulary_size))
    return drafter


@pytest.mark.parametrize(("kind", "own"), [*PARALLEL, ("eagle3", {})])
def test_reduced_draft_vocabularies(small: Target, kind: str, own: dict[str, Any]) -> None:
    """Few tokens make small trees; the text is the target's all the same, and only these tokens are drafted."""
    ids = [1, 4, 7, 9, 11]
    plain = Engine(small).generate(PROMPTS, 20, ())
    drafter = restricted(make_drafter_of(kind, small, **own), ids)
    for nodes, depth in ((3, 2), (16, 1), (16, 5)):
        for a, b in zip(
            plain, Engine(small, drafter, draft_length=depth, tree=nodes).generate(PROMPTS, 20, ()), strict=True
        ):
            assert a.tokens == b.tokens
            assert all(set(r.drafted) <= set(ids) for r in b.rounds)
            assert max(len(r.drafted) for r in b.rounds) == (5 if depth == 1 else nodes)


def test_a_tree_keeps_more_than_a_chain_of_its_size(small: Target) -> None:
    drafter = make_drafter_of("dflash", small)
    chain, tree = (
        Engine(small, drafter, tree=nodes).generate([[number] for number in range(1, 9)], 40, ()) for nodes in (None, 5)
    )
    assert sum(len(g.rounds) for g in tree) < sum(len(g.rounds) for g in chain)


def test_figures_of_trees(small: Target) -> None:
    """Acceptance goes by depth; a tree's drafts are not shown as a text of their own."""
    from paradraft.evaluation.statistics import acceptance
    from paradraft.evaluation.tables import round_pieces

    engine = Engine(small, make_drafter_of("pard", small), tree=20)
    generations = engine.generate(PROMPTS, 24, ())
    rounds = [r for g in generations for r in g.rounds]
    drafted = [r for r in rounds if r.reach and (not r.clipped or r.emitted)]
    assert all(r.accepted <= r.reach <= engine.draft_length for r in rounds)
    first = acceptance(generations, engine.draft_length).unconditional[0]
    assert first == pytest.approx(sum(r.accepted > 0 for r in drafted) / len(drafted))

    class Letters:
        def decode(self, tokens: list[int], **options: bool) -> str:
            return "".join(chr(ord("a") + token) for token in tokens)

    for generation in generations:
        pieces = round_pieces(Letters(), generation)
        assert "".join(p.accepted + p.own for p in pieces) == Letters().decode(generation.tokens)
        for piece, r in zip(pieces[1:], generation.rounds, strict=True):
            assert not piece.rejected and (r.depth or 0) == r.reach


def test_logprobs_follow_the_path(small: Target) -> None:
    engine = Engine(small, make_drafter_of("pard", small), tree=20)
    sequences = [engine.add(Request(prompt, 24, stops=frozenset(), logprobs=1)) for prompt in PROMPTS]
    found: dict[int, list[Logprob]] = {id(sequence): [] for sequence in sequences}
    while not engine.scheduler.idle:
        for event in engine.step():
            found[id(event.sequence)] += event.logprobs or ()
    for prompt, sequence in zip(PROMPTS, sequences, strict=True):
        tokens = sequence.generation.tokens
        text = torch.tensor([[*prompt, *tokens]])
        wanted = small.logits(text, torch.zeros_like(text))[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert [one.token for one in found[id(sequence)]] == tokens
        for one, row in zip(found[id(sequence)], wanted, strict=True):
            assert one.value == pytest.approx(float(row[one.token]), abs=1e-4)
    assert max(r.accepted for sequence in sequences for r in sequence.generation.rounds) > 1


def test_trees_that_cannot_be(small: Target) -> None:
    with pytest.raises(UserError, match="a tree has 1 to 1024 nodes, not -1; 0 stands for chains only"):
        Engine(small, make_drafter_of("dflash", small), tree=-1)
    for drafter in (None, make_drafter_of("vanilla", small)):
        with pytest.raises(UserError, match="a tree needs a drafter that can draft one"):
            Engine(small, drafter, tree=4)
    with pytest.raises(UserError, match="rule 'chain' is not one for trees"):
        Engine(small, make_drafter_of("dflash", small), tree=4, acceptance="chain")
