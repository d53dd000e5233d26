"""Which anchors decoding visits: by hand, and against decoding itself."""

from __future__ import annotations

import torch
from torch import Tensor

from paradraft.decoding import Engine, Sampling
from paradraft.drafters import load_drafter
from paradraft.evaluation.measure import first_turn
from paradraft.evaluation.prompts import load_prompts
from paradraft.models import Target
from paradraft.objectives import Objective
from paradraft.objectives.chunked_head import chunked_head
from paradraft.objectives.visits import walk
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
