"""Train/decode parity of every drafter: logits at (anchor, step) in training are those at decoding.

No other test finds the misalignments (a feature too many, a position off by one) that cost users most.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from paradraft.drafters import Batch, Drafter, Vanilla
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.models import Target
from tests.conftest import BOUND, KINDS, VARIANTS, make_drafter_of, make_model

WAYS = [("dflash", "dependent"), ("pard", "independent"), ("pard2", "dependent"), ("pard2", "independent")]
WAYS += [("vanilla", "independent"), ("eagle3", "dependent"), ("dspark", "dependent")]


def drafting_logits(
    drafter: Drafter,
    target: Target,
    ids: Tensor,
    anchors: list[int],
    pieces: int,
    forced: bool = True,
    steps: int | None = None,
) -> Tensor:
    """Logits [rows, K, V] of one draft behind ragged `anchors`; the text before them is observed in `pieces`.

    `steps`: K, the drafter's maximum unless told.

    `forced`: what is drafted is the text's own tokens, which is what a drafter that reads its drafts is trained on.
    """
    rows, seen = len(ids), list[Tensor]()

    def sampler(logits: Tensor) -> tuple[Tensor, None]:
        done = sum(step.shape[1] for step in seen)
        seen.append(logits)
        places = torch.tensor(anchors)[:, None] + 1 + done + torch.arange(logits.shape[1])
        own = ids.gather(1, places.clamp(max=ids.shape[1] - 1))
        if forced and drafter.vocabulary is not None:
            own = drafter.vocabulary.to_draft[own]
        return own if forced else logits.argmax(-1), None

    with torch.no_grad():
        state, cache = drafter.start(rows, 40), target.new_slots(rows, 40)
        done = torch.zeros(rows, dtype=torch.long)
        for piece in range(pieces):  # a prompt, then what two rounds committed: another number of tokens in every row
            until = torch.tensor(anchors) - (pieces - 1 - piece) * (1 + torch.arange(rows) % 2)
            counts = until - done
            tokens = torch.full((rows, int(counts.max()) + 2), 7)  # rejected drafts stand behind those that count
            for row in range(rows):
                tokens[row, : counts[row]] = ids[row, done[row] : until[row]]
            output = target.forward(tokens, cache, drafter.feature_layers)
            cache.commit(counts)
            drafter.observe(state, range(rows), output.features, tokens, counts)
            done = until
            if piece + 1 < pieces:  # a draft in between, which must leave no trace
                drafter.propose(state, range(rows), ids[torch.arange(rows), done], 3, sampler)
        seen.clear()
        newest = ids[torch.arange(rows), torch.tensor(anchors)]
        drafter.propose(state, range(rows), newest, steps or drafter.max_draft, sampler)
    return torch.cat(seen, dim=1)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "qwen3_moe"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("kind", "mode"), WAYS)
@pytest.mark.parametrize("lean", [False, True])
def test_training_logits_equal_decoding_logits(kind: str, mode: str, rows: int, family: str, lean: bool) -> None:
    target = Target(make_model(family))
    check_parity(make_drafter_of(kind, target), mode, rows, lean)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("kind", "own"), VARIANTS)
def test_variants_too(kind: str, own: dict[str, Any], rows: int) -> None:
    check_parity(make_drafter_of(kind, Target(make_model("qwen3")), **own), "dependent", rows, True)


@pytest.mark.parametrize("kind", ["dflash", "pard2", "eagle3", "dspark"])
def test_with_a_reduced_vocabulary_too(kind: str) -> None:
    """Tokens that are read are the target's, and those that are proposed are the drafter's, in both."""
    drafter = make_drafter_of(kind, Target(make_model("qwen3")))
    drafter.restrict(DraftVocabulary(torch.arange(1, 39, 3), 40))
    check_parity(drafter, "dependent", 3, True)


def check_parity(drafter: Drafter, mode: str, rows: int, lean: bool) -> None:
    target = drafter.target
    drafter.set_mode(mode)
    torch.manual_seed(5)
    lengths = torch.tensor([17, 12, 15])[:rows]
    ids = torch.randint(1, 39, (rows, 17))
    if drafter.vocabulary is not None:
        ids = drafter.vocabulary.ids[ids % len(drafter.vocabulary)]
    document_ids = torch.where(torch.arange(17) < lengths[:, None], 0, -1)
    mask = (torch.arange(17) >= 3) & (document_ids == 0)
    grid = drafter.grid(Batch(ids, mask, document_ids), anchors=17, seeds=range(rows))
    with torch.no_grad():
        features = target.features(ids, document_ids, drafter.feature_layers)
        training = drafter.head(drafter(grid, features))
    if lean:  # loaded drafters draft the fast way
        target.prepare_decoding()
        drafter.prepare_decoding()
    by_place = {(r, a): n for n, (r, a) in enumerate(zip(grid.rows.tolist(), grid.anchors.tolist(), strict=True))}
    checked = 0
    for first in range(6, 10):  # ragged: row r's anchor is first + r
        anchors = [first + r for r in range(rows)]
        for pieces in (1, 3):
            decoding = drafting_logits(drafter, target, ids, anchors, pieces)
            for row, anchor in enumerate(anchors):
                n = by_place[row, anchor]
                steps = int(grid.valid[n].sum())  # PARD lays out valid steps only; a plain model trains one step
                assert steps > 0
                torch.testing.assert_close(decoding[row, :steps], training[n, :steps], rtol=1e-4, atol=1e-4)
                checked += steps
    assert checked >= 8 * rows


@pytest.mark.parametrize(("kind", "own"), [*((kind, {}) for kind in KINDS), *VARIANTS])
def test_fewer_steps_are_the_beginning_of_all(kind: str, own: dict[str, Any]) -> None:
    """Slots may see those behind them: a shorter block than in training would draft something else."""
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of(kind, target, **own)
    ids = torch.randint(1, 39, (2, 17))
    whole = drafting_logits(drafter, target, ids, [7, 9], pieces=3, forced=False)
    for steps in range(1, drafter.max_draft):
        begun = drafting_logits(drafter, target, ids, [7, 9], pieces=3, forced=False, steps=steps)
        torch.testing.assert_close(begun, whole[:, :steps], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_plain_draft_model_drafts_what_it_would_write(rows: int) -> None:
    """Its grid has one step only, so the later ones are compared with its own greedy text, recomputed whole."""
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of("vanilla", target)
    assert isinstance(drafter, Vanilla)
    ids = torch.randint(1, 39, (rows, 17))
    anchors = [7 + 2 * row for row in range(rows)]
    drafted = drafting_logits(drafter, target, ids, anchors, pieces=3, forced=False).argmax(-1)
    for row, anchor in enumerate(anchors):
        text = ids[row : row + 1, : anchor + 1]
        for step in range(drafter.max_draft):
            following = drafter.model(input_ids=text).logits[:, -1:].argmax(-1)
            assert following == drafted[row, step]
            text = torch.cat((text, following), dim=1)


@pytest.mark.parametrize("kind", [*BOUND, "pard2"])
def test_features_matter_in_dependent_mode(kind: str) -> None:
    """A drafter that ignored its features would pass the test above."""
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of(kind, target)
    ids = torch.randint(1, 39, (1, 12))
    seen, drafts = list[Tensor](), list[Tensor]()

    def sampler(logits: Tensor) -> tuple[Tensor, None]:
        seen.append(logits)
        return logits.argmax(-1), None

    features = target.features(ids, torch.zeros_like(ids), drafter.feature_layers)
    for some in (features, features.flip(1)):
        state = drafter.start(1, 40)
        drafter.observe(state, [0], some, ids, torch.tensor([12]))
        drafter.propose(state, [0], ids[:, 3], 3, sampler)
        drafts.append(seen[0][:, 0])
        seen.clear()
    assert not torch.allclose(*drafts, atol=1e-3)
