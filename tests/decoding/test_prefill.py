"""Long prompts are read in pieces: nothing else changes, and the masks stay small."""

from __future__ import annotations

from typing import Any

import pytest

from paradraft.decoding import Engine, engine
from paradraft.models import Target
from tests.conftest import KINDS, make_drafter_of

PROMPTS = [[*range(1, 24)], [4, 9], [7], [*range(3, 20)]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pairs", [1, 300, 1000])
def test_pieces_change_nothing(kind: str, pairs: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = make_drafter_of(kind, target)
    whole = Engine(target, drafter).generate(PROMPTS, 20, ())
    monkeypatch.setattr(engine, "PREFILL", pairs)
    assert Engine(target, drafter).generate(PROMPTS, 20, ()) == whole


def test_no_forward_of_a_prompt_has_larger_masks(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = target.forward

    def watched(tokens: Any, slots: Any, *arguments: Any, **more: Any) -> Any:
        output = forward(tokens, slots, *arguments, **more)
        seen.append(tokens.numel() * slots.end)
        return output

    monkeypatch.setattr(target, "forward", watched)
    monkeypatch.setattr(engine, "PREFILL", 400)
    Engine(target).generate(PROMPTS, 1, ())
    assert max(seen) <= 400 and len(seen) == 6
