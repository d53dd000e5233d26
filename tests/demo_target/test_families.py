"""The generated families: right and readable answers, a split that cannot leak, text that depends on the seed only."""

from __future__ import annotations

import contextlib
import io
import random
import re
from itertools import islice
from typing import Any

import pytest

from demo_target.families import FAMILIES, Example, examples, is_held_out, is_right, last_line

DRAWS = 40
FENCED = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
TRACED_CALL = re.compile(r"^Trace of `(.*)`:$", re.MULTILINE)
PAIRS = [(family, template) for family, templates in FAMILIES.items() for template in templates]
every_template = pytest.mark.parametrize(
    ("family", "template"), PAIRS, ids=[f"{family}-{template.__name__}" for family, template in PAIRS]
)
every_family = pytest.mark.parametrize("family", FAMILIES)


def draw(template: Any) -> list[Example]:
    rng = random.Random(f"test/{template.__name__}")
    return [template(rng) for _ in range(DRAWS)]


def stream(family: str, seed: int, held_out: bool, passes: int = 5) -> list[tuple[str, Example]]:
    return list(islice(examples(family, seed, held_out), passes * len(FAMILIES[family])))


def distinct_share(text: str, n: int = 4) -> float:
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


@every_template
def test_every_answer_is_right_and_ascii(family: str, template: Any) -> None:
    for example in draw(template):
        assert example.final
        assert is_right(example.answer, example.final)
        assert (example.prompt + example.answer + example.final).isascii()


@every_template
def test_no_answer_loops(family: str, template: Any) -> None:
    assert min(distinct_share(example.answer) for example in draw(template)) >= 0.6


@every_template
def test_templates_vary(family: str, template: Any) -> None:
    assert len({example.prompt for example in draw(template)}) > DRAWS // 2


@every_family
def test_template_names_are_unique(family: str) -> None:
    names = [template.__name__ for template in FAMILIES[family]]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name not in ("draw", "template", "<lambda>") for name in names)


@every_family
def test_stream_takes_each_template_in_turn(family: str) -> None:
    names = [template.__name__ for template in FAMILIES[family]]
    assert [name for name, _ in stream(family, 3, held_out=False, passes=2)] == 2 * names


@pytest.mark.parametrize("number", ["142", "-42", "42.5", "420", "4.42", "42,000", "x42", "42nd"])
def test_is_right_rejects_a_longer_number_or_word(number: str) -> None:
    assert not is_right(f"The answer is {number}.", "42")
    assert not is_right(f"The answer is {number}", "42")


@pytest.mark.parametrize(
    "line", ["42", "42.", "So 42, as asked", "x = 42", "Answer: 42\n", "142 is not 42", "(42)", "$42"]
)
def test_is_right_accepts_the_whole_number(line: str) -> None:
    assert is_right(f"First 6 x 7.\n{line}", "42")


def test_is_right_reads_the_last_line_only() -> None:
    assert not is_right("It is 42.\nNo, it is 41.", "42")
    assert not is_right("", "42")
    assert is_right('As JSON:\n```json\n{"a": 42}\n```\n', '{"a": 42}')
    assert last_line("one\n\n  two  \n```\n\n") == "two"


def test_is_right_keeps_the_sign() -> None:
    assert is_right("The index is -1.", "-1")
    assert not is_right("The index is 1.", "-1")


@every_family
def test_held_out_and_training_prompts_are_disjoint(family: str) -> None:
    training = {example.prompt for seed in (1, 2) for _, example in stream(family, seed, held_out=False, passes=20)}
    held_out = {example.prompt for seed in (1, 2, 3) for _, example in stream(family, seed, held_out=True)}
    assert training and held_out
    assert training.isdisjoint(held_out)


@every_family
@pytest.mark.parametrize("held_out", [False, True])
def test_the_split_is_a_property_of_the_prompt(family: str, held_out: bool) -> None:
    for seed in (1, 2, 3):
        assert all(is_held_out(example.prompt) == held_out for _, example in stream(family, seed, held_out))


def test_one_prompt_in_twenty_is_held_out() -> None:
    share = sum(is_held_out(f"prompt {i}") for i in range(20000)) / 20000
    assert share == pytest.approx(0.05, abs=0.01)


@every_family
@pytest.mark.parametrize("held_out", [False, True])
def test_same_seed_same_text_other_seed_other_text(family: str, held_out: bool) -> None:
    first = stream(family, 1, held_out)
    assert stream(family, 1, held_out) == first
    other = stream(family, 2, held_out)
    prompts = {example.prompt for _, example in first}
    assert sum(example.prompt in prompts for _, example in other) < len(other) // 2


@pytest.mark.parametrize("template", FAMILIES["code"], ids=lambda template: template.__name__)
def test_fenced_code_runs_and_gives_the_final(template: Any) -> None:
    for example in draw(template):
        if answered := FENCED.search(example.answer):
            scope: dict[str, Any] = {}
            exec(answered[1], scope)
            call = TRACED_CALL.search(example.answer)
            assert call and repr(eval(call[1], scope)) == example.final
        else:
            asked = FENCED.search(example.prompt)
            assert asked
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(asked[1], {})
            assert printed.getvalue() == f"{example.final}\n"
