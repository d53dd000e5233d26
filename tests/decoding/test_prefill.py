"""Long prompts are read in pieces and similar ones together: nothing else changes, masks and padding stay small."""

from __future__ import annotations

from typing import Any

import pytest

from paradraft.decoding import Engine, prefill
from paradraft.decoding.prefill import alike
from paradraft.models import Target
from tests.conftest import KINDS, make_drafter_of

PROMPTS = [[*range(1, 24)], [4, 9], [7], [*range(3, 20)]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pairs", [1, 300, 1000])
def test_pieces_change_nothing(kind: str, pairs: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = make_drafter_of(kind, target)
    whole = Engine(target, drafter).generate(PROMPTS, 20, ())
    monkeypatch.setattr(prefill, "PAIRS", pairs)
    assert Engine(target, drafter).generate(PROMPTS, 20, ()) == whole


def test_no_forward_of_a_prompt_has_larger_masks(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = target.forward

    def watched(tokens: Any, slots: Any, *arguments: Any, **more: Any) -> Any:
        output = forward(tokens, slots, *arguments, **more)
        seen.append(tokens.numel() * slots.end)
        return output

    monkeypatch.setattr(target, "forward", watched)
    monkeypatch.setattr(prefill, "PAIRS", 400)
    monkeypatch.setattr(prefill, "PADDING", {"cpu": 100})
    Engine(target).generate(PROMPTS, 1, ())
    assert max(seen) <= 400 and len(seen) == 6


def test_texts_of_similar_length_are_read_together() -> None:
    lengths = [53, 78, 87, 70, 62, 72, 126, 64, 85, 101, 120, 138, 90, 106, 71, 68]
    groups = alike(lengths, 32)
    assert sorted(place for group in groups for place in group) == list(range(16))
    found = [[lengths[place] for place in group] for group in groups]
    assert found == [[138, 126, 120], [106, 101, 90], [87, 85, 78, 72], [71, 70, 68, 64, 62], [53]]
    assert alike(lengths, 0) == [[place] for place in sorted(range(16), key=lambda n: -lengths[n])]
    assert alike([5, 5, 7], 0) == [[2], [0, 1]] and alike([], 32) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [0, 8])
def test_groups_change_nothing(kind: str, padding: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = make_drafter_of(kind, target)
    monkeypatch.setattr(prefill, "PADDING", {"cpu": 100})
    together = Engine(target, drafter).generate(PROMPTS, 20, ())
    monkeypatch.setattr(prefill, "PADDING", {"cpu": padding})
    assert Engine(target, drafter).generate(PROMPTS, 20, ()) == together
