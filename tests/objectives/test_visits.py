"""Which anchors decoding visits: by hand, and against decoding itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from paradraft.decoding import Engine, Sampling
from paradraft.drafters import load_drafter
from paradraft.evaluation.measure import first_turn
from paradraft.evaluation.prompts import load_prompts
from paradraft.models import Target
from paradraft.objectives import Blocks, Objective
from paradraft.objectives.chunked_head import chunked_head
from paradraft.objectives.visits import visits, walk
from paradraft.text.batches import collate
from paradraft.text.render import Rendered
from paradraft.training.teacher import read_teacher


def anchors_of(positions: list[int], steps: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """valid, rows, anchors of one sequence."""
    return torch.ones(len(positions), steps).bool(), torch.zeros(len(positions)).long(), torch.tensor(positions)


def test_a_walk_by_hand() -> None:
    """From 4 two are right: on to 7. From 7 none: on to 8, which is no anchor, so 9, where all three are right."""
    accepted = torch.tensor([2.0, 3, 0, 3, 1])
    assert walk(accepted, *anchors_of([4, 5, 7, 9, 12])) == (3, 5)
    assert walk(accepted, *anchors_of([4, 5, 6, 7, 8])) == (2, 5)
    assert walk(accepted[:0], *anchors_of([])) == (0, 0)


def test_every_sequence_is_walked_by_itself_without_its_unused_blocks() -> None:
    valid, _, anchors = anchors_of([4, 5, 6, 0, 2, 5, 0])
    valid[3] = valid[6] = False
    rows = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    assert walk(torch.tensor([1.0, 9, 0, 9, 0, 2, 9]), valid, rows, anchors) == (4, 3)


def dense_visits(confidence: Tensor) -> Tensor:
    """The obvious version, for one answer whose every position is an anchor: v_{a+1+l} += v_a P(exactly l accepted)."""
    count, steps = confidence.shape
    chances = torch.zeros(count + steps + 1, dtype=confidence.dtype)
    chances[0] = 1
    for anchor, q in enumerate(confidence):
        survival = torch.cat((torch.ones(1), q.cumprod(0), torch.zeros(1)))
        for accepted in range(steps + 1):
            chances[anchor + 1 + accepted] += chances[anchor] * (survival[accepted] - survival[accepted + 1])
    return chances[:count]


def inside(count: int, steps: int) -> Tensor:
    """Validity [count, steps] where anchors are all positions of an answer but its last."""
    return torch.arange(count)[:, None] + torch.arange(1, steps + 1) <= count


def test_visits_by_hand() -> None:
    """Chances to go on by 1, 2, 3 from each anchor: .5 .25 .25; .8 .1 .1; .6 and more; the rest leaves the text."""
    q = torch.tensor([[0.5, 0.5], [0.2, 0.5], [0.4, 0.9], [0.3, 0.9]])
    wanted = [1, 0.5, 0.25 + 0.5 * 0.8, 0.25 + 0.5 * 0.1 + 0.65 * 0.6]
    found = visits(q, inside(4, 2), torch.arange(7, 11), torch.full((4,), 7))
    assert found.tolist() == pytest.approx(wanted)


def test_visits_of_all_positions_are_those_of_the_obvious_version() -> None:
    torch.manual_seed(0)
    for count, steps in ((30, 4), (9, 12), (1, 3)):
        q, valid, places = torch.rand(count, steps), inside(count, steps), torch.arange(count) + 5
        found = visits(q, valid, places, torch.full((count,), 5))
        torch.testing.assert_close(found, dense_visits(q), rtol=1e-4, atol=1e-5)
        decided = torch.cat((torch.ones(count, 1), q.cumprod(-1)), dim=-1) * inside(count, steps + 1)
        assert (found[:, None] * decided).sum().item() == pytest.approx(
            count, rel=1e-4
        )  # each token but the first, once


def test_visits_of_a_sure_drafter_are_its_walk() -> None:
    """Confidences of 0 and 1: decoding is a walk, and stands at an anchor or does not."""
    torch.manual_seed(1)
    q, valid, places = (torch.rand(40, 5) < 0.7).float(), inside(40, 5), torch.arange(40)
    found = visits(q, valid, places, torch.zeros(40, dtype=torch.long))
    stood, place = [], 0
    accepted = (q * valid).cumprod(-1).sum(-1).long()
    while place < 40:
        stood.append(place)
        place += int(accepted[place]) + 1
    assert found.nonzero()[:, 0].tolist() == stood and found[stood].tolist() == [1.0] * len(stood)
    rows = torch.zeros(40, dtype=torch.long)
    assert walk(accepted, valid, rows, places) == (len(stood), int(accepted[stood].sum()))


def test_visits_of_a_sample_by_hand() -> None:
    """Mean accepted length .6 + .25: a new anchor anywhere with 1 / 1.85. Anchor 2 knows of the round at 0 alone, which
    decides token 2 with .5; anchor 9 knows of none. Step 2 of anchor 9 was dropped."""
    q = torch.tensor([[0.5, 0.6], [0.7, 2 / 7], [0.6, 0.1]])
    valid = torch.tensor([[True, True], [True, True], [True, False]])
    found = visits(q, valid, torch.tensor([0, 2, 9]), torch.zeros(3, dtype=torch.long))
    assert found.tolist() == pytest.approx([1, 0.5 * (1 - 0.6) + 0.5 / 1.85, 1 / 1.85])
    # Anchor 12 would be the target's own token of the round at 9, had its drafts not been dropped.
    more = torch.cat((q, q[2:])), torch.cat((valid, valid[2:])), torch.tensor([0, 2, 9, 12]), torch.zeros(4).long()
    assert visits(*more)[3].item() == pytest.approx(1 / 1.85)
    # A second answer begins at 2: decoding stands there, whatever was accepted before.
    assert visits(q, valid, torch.tensor([0, 2, 9]), torch.tensor([0, 2, 2])).tolist() == pytest.approx(
        [1, 1, 1 / 1.85]
    )


def test_anchors_weigh_in_proportion_to_their_visits() -> None:
    """Two sequences under uniform weights: a mean over anchors, each in proportion to its chance."""
    torch.manual_seed(2)
    count, steps, entries = 6, 3, 5
    valid = torch.cat((inside(count, steps), inside(count, steps)))
    valid[11] = False  # an unused block
    places = {"anchors": torch.arange(count).repeat(2), "starts": torch.zeros(2 * count, dtype=torch.long)}
    rows = torch.arange(2).repeat_interleave(count)
    blocks = Blocks(torch.randint(entries, (2 * count, steps)), valid, rows, **places)
    logits = 3 * torch.randn(2 * count, steps, entries)
    objective = Objective("ce", "uniform", "anchors", anchor_weighting="visits")
    sums = objective.sums(objective.terms(logits[valid], blocks), blocks)
    losses = -logits.log_softmax(-1).gather(-1, blocks.labels[..., None]).squeeze(-1)
    of_blocks = (losses * valid).sum(-1)
    means = []
    for mine in (slice(0, 6), slice(6, 11)):
        chances = dense_visits((-losses[mine]).exp())
        means.append((chances * of_blocks[mine]).sum() / chances.sum())
    torch.testing.assert_close(sums.loss / sums.denominator, torch.stack(means).mean())
    assert sums.weight[0].item() == pytest.approx(11)
    bare = replace(blocks, starts=None)
    with pytest.raises(ValueError, match="needs to know where they stand"):
        objective.sums(objective.terms(logits[valid], bare), bare)


def test_the_walk_over_all_positions_is_greedy_decoding() -> None:
    target = Target.load("demo")
    drafter = load_drafter("demo:dflash-dpace", target)
    asked = [first_turn(target, prompt) for prompt in load_prompts("demo:chat", 4).prompts]
    answers = Engine(target, drafter, Sampling()).generate(asked, 99, (), enough=40)  # whole rounds to the end
    rendered = [
        Rendered([*prompt, *answer.tokens], [False] * len(prompt) + [True] * len(answer.tokens))
        for prompt, answer in zip(asked, answers, strict=True)
    ]
    grid = drafter.grid(collate(rendered), 1000, [0] * len(rendered))
    objective = Objective("ce", "uniform")
    with torch.no_grad():
        features, blocks = read_teacher(target, grid, drafter.feature_layers, objective)
        sums = chunked_head(drafter(grid, features), blocks, drafter.head, objective)
    rounds = [one for answer in answers for one in answer.rounds]
    assert int(sums.walk_rounds) == len(rounds) < 40
    assert int(sums.walk_accepted) == sum(one.accepted for one in rounds)
