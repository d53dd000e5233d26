"""The target answers prompts: in fixed units, through a journal that survives being killed, by engine or by server."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from paradraft.decoding import Engine
from paradraft.drafters import DFlash
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.models.chat import ChatText
from paradraft.text.answers import Answer, Job, RefusedPrompt, answer_unit, in_parallel, plan_units, unit_seed
from paradraft.text.conversations import parse_record, turns_of
from paradraft.text.journal import Journal
from paradraft.text.provenance import TargetIdentity, provenance_notes, provenance_path, read_provenance
from paradraft.text.render import render_conversation, render_prompt
from paradraft.text.sources import read_source

from .requests import lines, request_for
from .templates import LLAMA3, MISTRAL

USER, ANSWER = {"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}


# --- units -------------------------------------------------------------------------------------------------------


def test_units_hold_every_prompt_once_like_lengths_together() -> None:
    lengths = [(31 * i) % 57 for i in range(1000)]
    units = plan_units(lengths, 8)
    assert sorted(i for unit in units for i in unit) == list(range(1000))
    assert all(len(unit) <= 8 for unit in units)
    spread = [max(lengths[i] for i in unit) - min(lengths[i] for i in unit) for unit in units]
    assert sum(spread) / len(spread) < 5
    assert max(max(unit) - min(unit) for unit in units) < 8 * 32


def test_turns_are_what_is_asked_before_each_answer() -> None:
    system, tool = {"role": "system", "content": "be brief"}, {"role": "tool", "content": "12"}
    conversation = parse_record({"messages": [system, USER, ANSWER, USER, ANSWER, tool, ANSWER, USER]})
    assert turns_of(conversation) == [[system, USER], [USER]]


def test_seeds_differ_by_place_and_turn_and_fit_servers() -> None:
    seeds = {unit_seed(seed, first, turn) for seed in range(5) for first in range(50) for turn in range(4)}
    assert len(seeds) == 1000 and max(seeds) < 2**31


class Scripted:
    """Answers with the number of tokens it was asked; the second answer is cut."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], int]] = []

    def answer(self, prompts: Any, seed: int) -> list[Answer]:
        self.calls.append(([len(prompt) for prompt in prompts], seed))
        return [Answer(f"dog {len(prompt)}", 3, len(self.calls) < 2) for prompt in prompts]


def test_a_unit_is_answered_turn_by_turn(tiny: Target) -> None:
    chat = tiny.chat
    records = [
        {"messages": [USER, ANSWER, USER, ANSWER, USER], "id": "a"},
        {"prompt": "a dog"},
        {"prompt": "the cat " * 60},
        {"turns": ["on", "the cat " * 60]},
    ]
    job = Job([parse_record(record) for record in records], chat, longest=90)
    scripted = Scripted()
    first, second, third, fourth = answer_unit(job, [0, 1, 2, 3], scripted)
    record, figures = first[1], first[2]
    assert record is not None and record["id"] == "a" and record["finish_reason"] == "length"
    assert [m["role"] for m in record["messages"]] == ["user", "assistant"] * 2
    assert figures["answers"] == 2 and figures["tokens"] == 6 and figures["cut"] == 1
    assert second[1] is not None and second[1]["finish_reason"] == "stop" and len(second[1]["messages"]) == 2
    assert third[1] is None and third[2]["too_long"] == 1
    assert fourth[1] is not None and len(fourth[1]["messages"]) == 2  # its second turn has no room
    assert [len(lengths) for lengths, _ in scripted.calls] == [3, 1]
    (learned,) = render_conversation(chat, parse_record(record))
    assert not learned.loss_mask[-1] and learned.input_ids.tolist().count(chat.tokenizer.eos_token_id) == 4


def test_looping_answers_are_counted(tiny: Target) -> None:
    class Looping:
        def answer(self, prompts: Any, seed: int) -> list[Answer]:
            return [Answer("dog " * 12, 12, True), Answer("sat on the mat", 4, True)]

    job = Job([parse_record({"prompt": prompt}) for prompt in ("the cat", "a dog")], tiny.chat, longest=90)
    assert [figures["looping"] for _, _, figures in answer_unit(job, [0, 1], Looping())] == [1, 0]


class Blank:
    """Writes the blank that a Mistral answer begins with."""

    def answer(self, prompts: Any, seed: int) -> list[Answer]:
        return [Answer(" dog", 2, True) for _ in prompts]


def test_training_reads_back_what_was_written(target_directory: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(target_directory)
    for template, expected, differently in ((MISTRAL, " dog dog", 0), (LLAMA3, "dogdog", 2)):
        tokenizer.chat_template = template  # the second strips the blank, which has to be said
        chat = ChatText.of(tokenizer)
        conversation = parse_record({"turns": ["the cat", "and?"]})
        ((_, record, figures),) = answer_unit(Job([conversation], chat, longest=999), [0], Blank())
        assert record is not None and figures["read_differently"] == differently
        (example,) = render_conversation(chat, parse_record(record))
        learned = [i for i, mask in zip(example.input_ids, example.loss_mask, strict=True) if mask]
        assert tokenizer.decode(learned) == expected


class Narrow:
    """A server that refuses what is longer than it can hold."""

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def answer(self, prompts: Any, seed: int) -> list[Answer]:
        if max(map(len, prompts)) > self.longest:
            raise RefusedPrompt("too long for me")
        return [Answer("a dog", 2, True) for _ in prompts]


def test_what_was_answered_before_a_refused_turn_is_kept(tiny: Target) -> None:
    job = Job([parse_record({"turns": ["the cat", "and then?"]})], tiny.chat, longest=999)
    first = len(render_prompt(tiny.chat, [USER]))
    ((_, record, figures),) = answer_unit(job, [0], Narrow(first))
    assert record is not None and record["finish_reason"] == "stop"
    assert [message["content"] for message in record["messages"]] == ["the cat", "a dog"]
    assert figures["answers"] == figures["refused_by_server"] == 1
    with pytest.raises(RefusedPrompt):
        answer_unit(job, [0], Narrow(first - 1))


def test_nobody_waits_for_requests_that_hang() -> None:
    """After an error or Ctrl-C the process ends, whatever the server does: the threads do not hold it."""
    hang = threading.Event()

    def work(i: int) -> int:
        if i == 3:
            raise UserError("lost")
        hang.wait(60)
        return i

    before = set(threading.enumerate())
    with pytest.raises(UserError, match="lost"):
        list(in_parallel(work, list(range(100)), 4))
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    hang.set()


def test_workers_lose_nothing_and_stop_at_the_first_error() -> None:
    assert sorted(in_parallel(lambda i: i * i, list(range(100)), 7)) == [i * i for i in range(100)]
    begun = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 5:
            raise UserError("lost")
        return i

    with pytest.raises(UserError, match="lost"):
        list(in_parallel(work, list(range(1000)), 3))
    assert len(begun) < 100


# --- the journal -------------------------------------------------------------------------------------------------


def test_the_journal_keeps_order_and_settings(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    journal = Journal(out, {"temperature": 0.0, "max_new_tokens": 4})
    journal.add([(5, {"a": "é"}, {"tokens": 2}), (1, {"a": 1}, {"tokens": 3})])
    journal.add([(3, None, {"too_long": 1})])
    with pytest.raises(UserError, match="another process"):
        Journal(out, {"temperature": 0.0, "max_new_tokens": 4})
    journal.close()
    with pytest.raises(UserError, match=r"made with another temperature \(0\.0, now 1\.0\)"):
        Journal(out, {"temperature": 1.0, "max_new_tokens": 4})
    journal = Journal(out, {"temperature": 0.0, "max_new_tokens": 4})
    assert journal.done() == {1, 3, 5} and journal.totals() == {"tokens": 5, "too_long": 1}
    journal.write_output(out)
    assert out.read_text(encoding="utf-8") == '{"a": 1}\n{"a": "é"}\n'
    journal.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
    journal = Journal(out, {})
    journal.add([(0, {"a": 1}, {})])
    journal.database.execute("PRAGMA max_page_count = 4")
    with pytest.raises(UserError, match=r"cannot be written \(database or disk is full\); make room"):
        journal.add([(1, {"a": "x" * 100_000}, {})])
    journal.close()
    journal = Journal(out, {})
    assert journal.done() == {0}
    journal.remove()
    (tmp_path / "y.jsonl.partial").write_text("this is no database " * 50)
    with pytest.raises(UserError, match="is damaged"):
        Journal(tmp_path / "y.jsonl", {})


def run_slowly(request: Callable[..., None]) -> None:
    """In a child process that ends with exit code 0 only if the command comes to its end."""
    add = Journal.add

    def slowly(self: Journal, answers: Any) -> None:
        time.sleep(0.1)  # however fast the machine is, five of these outlast the first moments
        add(self, answers)
        time.sleep(0.1)

    Journal.add = slowly  # type: ignore[method-assign]
    code = 1
    try:
        request()
        code = 0
    finally:
        os._exit(code)


def killed_often(request: Callable[..., None], seed: int) -> int:
    """Run it in children that are killed at random moments until one comes to its end; how many were killed.

    The moments move back slowly, so that a busy machine comes to the end, too.
    """
    tqdm.set_lock(threading.RLock())  # its own is shared with children: one killed inside it would lock this process
    rng = random.Random(seed)
    for kills in range(200):
        child = os.fork()
        if child == 0:
            run_slowly(request)
        deadline = time.time() + rng.uniform(0.15, 0.4) * 1.1**kills
        while time.time() < deadline:
            finished, status = os.waitpid(child, os.WNOHANG)
            if finished:
                assert status == 0
                return kills
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_killed_at_random_moments_the_file_is_the_same(
    target_directory: Path, many_prompts: Path, tmp_path: Path, temperature: float
) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    request_for(target_directory, many_prompts, whole, temperature=temperature)()
    request = request_for(target_directory, many_prompts, killed, temperature=temperature)
    assert killed_often(request, seed=3) >= 2
    assert killed.read_bytes() == whole.read_bytes()
    assert [record["id"] for record in lines(killed)] == [str(i) for i in range(60)]
    assert not list(tmp_path.glob("*.partial"))


# --- the command -------------------------------------------------------------------------------------------------


def test_answers_are_the_targets_own(target_directory: Path, tiny: Target, many_prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "sub" / "out.jsonl"
    request_for(target_directory, many_prompts, out, limit=7)()
    for record in lines(out):
        asked = render_prompt(tiny.chat, record["messages"][:1])
        (plain,) = Engine(tiny).generate([asked], 12)
        assert plain.stopped or record["finish_reason"] == "length" or len(record["messages"]) > 2
        written = plain.tokens[:-1] if plain.stopped else plain.tokens
        assert record["messages"][1]["content"] == tiny.chat.decode(written)
    found = read_provenance(out)
    assert found is not None and found.template_hash == tiny.chat.template_hash
    assert found.target.fingerprint and found.details["settings"]["temperature"] == 0
    hashed = found.template_hash
    assert provenance_notes(str(out), found.target, hashed, None) == []
    others = TargetIdentity("another", None, "abc")
    notes = provenance_notes(str(out), others, "other", False)
    assert (
        f"{found.target.label}, not of another (abc)" in notes[0]
        and "another chat template" in notes[1]
        and "data.thinking=null" in notes[2]
    )
    assert "nothing says that its answers" in provenance_notes(str(many_prompts), others, hashed, None)[0]
    assert len(read_source(str(out)).conversations) == 7
    with out.open("a") as file:
        file.write(json.dumps({"prompt": "the cat", "response": "of somebody else"}) + "\n")
    (note,) = provenance_notes(str(out), found.target, hashed, None)
    assert "was changed after it was written" in note


def test_a_drafter_changes_nothing_but_time(target_directory: Path, many_prompts: Path, tmp_path: Path) -> None:
    DFlash.fresh(Target.load(str(target_directory)), layers=1, block_size=4).save_pretrained(tmp_path / "drafter")
    plain, drafted = tmp_path / "plain.jsonl.gz", tmp_path / "drafted.jsonl.gz"
    request_for(target_directory, many_prompts, plain, limit=20)()
    request_for(target_directory, many_prompts, drafted, limit=20, drafter=str(tmp_path / "drafter"))()
    assert plain.read_bytes() == drafted.read_bytes()


def test_what_cannot_go_on_is_refused(
    target_directory: Path, many_prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    request_for(target_directory, many_prompts, out, limit=3)()
    before = out.read_bytes()
    for left in ("out.jsonl.partial", "out.jsonl.partial-journal"):  # killed behind its last rename
        (tmp_path / left).touch()
    request_for(target_directory, many_prompts, out, limit=3)()
    assert not list(tmp_path.glob("*.partial*"))
    assert "nothing to do" in capsys.readouterr().err and out.read_bytes() == before
    for changes, complaint in (
        ({"limit": 4}, "another prompts"),
        ({"limit": 3, "max_new_tokens": 9}, r"another max new tokens \(12, now 9\)"),
        ({"limit": 3, "seed": 1}, "another seed"),
        ({"limit": 3, "thinking": True}, "no thinking switch"),
        ({"endpoint": "http://localhost:1", "drafter": "x"}, "--drafter is for the embedded engine"),
        ({"endpoint": "http://localhost:1", "batch_size": 4}, "--batch-size and --dtype are for the embedded engine"),
        (
            {"endpoint": "http://localhost:1", "dtype": "float32"},
            "--batch-size and --dtype are for the embedded engine",
        ),
        ({"concurrency": 4}, "--model, --key-variable and --concurrency are for a server"),
        ({"out": many_prompts}, "is no file of this command"),
        ({"max_new_tokens": 127, "out": tmp_path / "none.jsonl"}, "no prompt leaves room"),
    ):
        with pytest.raises(UserError, match=complaint):
            request_for(target_directory, many_prompts, **({"out": out} | changes))()
    assert out.read_bytes() == before
    provenance_path(out).write_text("{}")
    with pytest.raises(UserError, match="is not a provenance file"):
        request_for(target_directory, many_prompts, out, limit=3)()
