"""What ships: small enough, held out, loadable, lossless, and the recipes that made it."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from demo_target.families import is_held_out
from paradraft import drafters
from paradraft.decoding import Engine
from paradraft.drafters import load_drafter
from paradraft.evaluation.lossless import check_exact
from paradraft.evaluation.measure import first_turn_ids
from paradraft.evaluation.prompts import load_prompts
from paradraft.models import Target
from paradraft.models.names import ASSETS, drafter_directory
from paradraft.text.loops import is_looping
from paradraft.text.provenance import identify, provenance_notes
from paradraft.text.sources import read_source
from paradraft.training.config import load_config

DRAFTERS = (
    ("demo:dflash-dpace", "dependent"),
    ("demo:dflash-decay", "dependent"),
    ("demo:vanilla", "independent"),
    ("demo:pard", "independent"),
    ("demo:pard2", "dependent"),
    ("demo:pard2", "independent"),
)
SETS = ("demo:math", "demo:code", "demo:chat")
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def demo_target() -> Target:
    return Target.load("demo")


def test_the_wheel_stays_small() -> None:
    """Below 90 MB, packed as a wheel packs: the assets, and 2 MB for the code."""
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 88e6


def test_prompt_sets_are_held_out_and_training_text_is_not() -> None:
    for name in SETS:
        prompts = load_prompts(name).prompts
        assert len(prompts) == 100 and all(is_held_out(prompt.question) for prompt in prompts)
    reading = read_source("demo:train")
    assert len(reading.conversations) > 1000 and not reading.bad
    assert not any(is_held_out(conversation.messages[0]["content"]) for conversation in reading.conversations)


def test_the_training_text_is_known_to_be_the_targets_own(demo_target: Target) -> None:
    assert provenance_notes("demo:train", identify("demo"), demo_target.chat.template_hash, None) == []


def test_the_target_ends_its_answers(demo_target: Target) -> None:
    for name in SETS:
        asked = first_turn_ids(demo_target, load_prompts(name, 6))
        answers = Engine(demo_target).generate(asked, 256)
        assert sum(answer.stopped and not is_looping(answer.tokens) for answer in answers) >= 5


@pytest.mark.parametrize(("name", "mode"), DRAFTERS)
def test_shipped_drafters_are_lossless_and_pay(demo_target: Target, name: str, mode: str) -> None:
    drafter = load_drafter(drafter_directory(name), demo_target)
    drafter.set_mode(mode)
    asked = [ids for name in SETS for ids in first_turn_ids(demo_target, load_prompts(name, 3))]
    result = check_exact(demo_target, drafter, asked, 96)
    assert result.passed and not result.divergences
    answers = Engine(demo_target, drafter).generate(asked, 96)
    emitted = sum(r.emitted for a in answers for r in a.rounds) / sum(len(a.rounds) for a in answers)
    assert emitted > 2.5


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(path: Path) -> None:
    config = load_config(path)
    assert config.output == Path("runs") / path.stem
    assert config.drafter.kind in drafters.DRAFTERS
