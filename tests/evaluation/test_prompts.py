"""Prompt sets: every shape of conversation can be asked, whole, and equal sets have equal hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paradraft.decoding import Engine
from paradraft.drafters import DFlash
from paradraft.errors import UserError
from paradraft.evaluation.measure import (
    PLAIN,
    Measured,
    Settings,
    Weights,
    check_first_turns,
    first_turn_ids,
    measure,
    run_results,
    warm_up,
)
from paradraft.evaluation.prompts import Prompt, load_prompt_sets, load_prompts
from paradraft.models import Target
from tests.models.test_graphs import ready, recorded

SYSTEM, USER = {"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"}
ANSWER = {"role": "assistant", "content": "sat"}


def load(path: Path, *records: Any) -> list[Prompt]:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return list(load_prompts(str(path)).prompts)


def test_every_shape_of_conversation_is_asked_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    (spoken,) = load(path, {"id": 7, "messages": [SYSTEM, USER, ANSWER, USER]})
    assert spoken.turns == ((SYSTEM, USER), (USER,)) and spoken.question == "the cat" and spoken.id == "7"
    share = {"conversations": [{"from": "human", "value": "the cat"}, {"from": "gpt", "value": "sat"}]}
    plain = load(
        path, {"prompt": "the cat", "text": "a note"}, {"turns": ["the cat"]}, share, {"messages": [USER, ANSWER]}
    )
    assert [prompt.turns for prompt in plain] == [((USER,),)] * 4
    assert [prompt.id for prompt in plain] == ["1", "2", "3", "4"]


def test_shipped_sets_keep_their_whole_names(tmp_path: Path) -> None:
    """Else `smollm2:math` would be called as a user's own math.jsonl is."""
    load(tmp_path / "math.jsonl", {"prompt": "the cat"})
    sets = load_prompt_sets(["smollm2:math", "demo:math", str(tmp_path / "math.jsonl")], 1)
    assert [found.name for found in sets] == ["smollm2:math", "demo:math", "math"]


def test_hashes_are_of_all_that_is_asked(tmp_path: Path) -> None:
    def hash_of(record: Any) -> str:
        load(tmp_path / "x.jsonl", record)
        return load_prompts(str(tmp_path / "x.jsonl")).hash

    asked = hash_of({"prompt": "the cat"})
    assert asked == hash_of({"id": "a", "messages": [USER, ANSWER]}) == "a67dff58a46a"
    tools = [{"type": "function", "function": {"name": "look"}}]
    others = [{"messages": [SYSTEM, USER]}, {"messages": [USER], "tools": tools}, {"turns": ["the cat", "the cat"]}]
    assert len({asked, *map(hash_of, others)}) == 4


def with_template(directory: Path, start: str) -> Target:
    """The tiny target, its chat template with something in front."""
    target = Target.load(str(directory))
    tokenizer = target.chat.tokenizer
    tokenizer.chat_template = start + str(tokenizer.chat_template)
    return Target(target.model, tokenizer)


def test_a_system_prompt_and_tools_reach_the_target(target_directory: Path, tmp_path: Path) -> None:
    target = with_template(target_directory, "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}")
    tools = [{"type": "function", "function": {"name": "house"}}]
    path = tmp_path / "x.jsonl"
    load(path, {"messages": [{"role": "system", "content": "a dog"}, USER, ANSWER, USER], "tools": tools})
    prompts = load_prompts(str(path))
    (first,) = first_turn_ids(target, prompts)
    assert target.chat.decode(first).startswith("house ") and "a dog" in target.chat.decode(first)
    (plain,) = measure(target, {}, prompts, Settings(max_new_tokens=4))
    assert len(plain.generations) == 2


def test_turns_that_the_template_refuses_are_named_before_anything_runs(target_directory: Path, tmp_path: Path) -> None:
    picky = "{% for m in messages[1:] %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    target = with_template(target_directory, picky)
    load(tmp_path / "x.jsonl", {"id": "late", "messages": [USER, ANSWER, SYSTEM, USER]})
    prompts = load_prompts(str(tmp_path / "x.jsonl"))
    with pytest.raises(UserError, match="prompt late: the chat template refuses this conversation: no"):
        check_first_turns(target, prompts, 4)


def test_a_conversation_ends_where_its_next_turn_has_no_room(target_directory: Path, tmp_path: Path) -> None:
    strict = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    )
    target = with_template(target_directory, strict + "{% endif %}{% endfor %}")
    long, short = {"turns": ["the cat " * 8] * 4}, {"turns": ["the cat"] * 2}
    load(tmp_path / "x.jsonl", long, short)
    prompts, told = load_prompts(str(tmp_path / "x.jsonl")), []
    drafter = DFlash.fresh(target, layers=1, block_size=4)
    measured = measure(target, {"d": drafter}, prompts, Settings(max_new_tokens=30), told.append)
    (result,) = run_results(target, Weights("t", None, {}), measured, prompts, Settings(max_new_tokens=30))
    answers = len(measured[0].generations)
    assert 3 <= answers < 6 and result.turns_without_room == 6 - answers and sum(told) == 12


def test_a_bad_record_is_an_error_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x.jsonl, line 2: there is no user message"):
        load(tmp_path / "x.jsonl", {"prompt": "a"}, {"messages": [SYSTEM]}, {"prompt": "b"})
    with pytest.raises(UserError, match=r"is empty; give one JSON object a line"):
        load(tmp_path / "x.jsonl")
    result = {"role": "tool", "content": "3"}
    with pytest.raises(UserError, match=r"line 1: there is no user message before the first tool result"):
        load(tmp_path / "x.jsonl", {"messages": [result, USER]})


def test_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "dev.jsonl").write_text('{"prompt": "the cat"}\n')
    with pytest.raises(UserError, match=r"two prompt sets are called dev.*rename"):
        load_prompt_sets([str(tmp_path / name / "dev.jsonl") for name in "ab"])


def test_rounds_are_recorded_before_they_are_timed() -> None:
    """On a GPU, whose engines keep their slots: a smaller batch or a shorter text would leave most to record."""
    target = ready()
    recorder = recorded(target)
    way = Measured(PLAIN, "", Engine(target))
    way.engine.keeps_slots = True
    prompts, new = [[3, 4, 5, 6], [7] * 9, [8] * 9], 12
    warm_up([way], prompts, Settings(batch_size=2, max_new_tokens=new))
    known = len(recorder.recordings)
    assert known and not way.generations and way.engine.seconds.decode == 0
    way.generate(prompts[1:], new)
    assert len(recorder.recordings) == known
