"""Batches in an order that can be resumed anywhere; rows packed with texts that know nothing of each other."""

from __future__ import annotations

import copy
import json
import tracemalloc
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from paradraft.config import DataSection
from paradraft.drafters import DFlash
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.text.batches import batches_from, collate, cut, epoch_batches, learnable, pack
from paradraft.text.prepare import prepare_examples
from paradraft.text.provenance import TargetIdentity
from paradraft.text.render import Rendered

ASKED = {"role": "user", "content": "the cat"}
NOBODY = TargetIdentity("nobody")


def example(size: int, start: int = 0, answers: tuple[tuple[int, int], ...] | None = None) -> Rendered:
    """Ids start, start + 1, ...; supervised within the half-open `answers`."""
    spans = ((size // 2, size),) if answers is None else answers
    mask = [any(begin <= i < end for begin, end in spans) for i in range(size)]
    return Rendered([(start + i) % 40 for i in range(size)], mask)


def test_batches_cover_the_epoch_and_resume_anywhere() -> None:
    lengths = [(7 * i) % 31 + 1 for i in range(103)]
    batches = epoch_batches(lengths, 4, seed=1, epoch=0)
    assert len(batches) == 25 and all(len(batch) == 4 for batch in batches)
    assert len({i for batch in batches for i in batch}) == 100
    assert batches != epoch_batches(lengths, 4, seed=1, epoch=1)
    stream = batches_from(lengths, 4, seed=1, step=0)
    first = [next(stream) for _ in range(60)]
    resumed = batches_from(lengths, 4, seed=1, step=37)
    assert [next(resumed) for _ in range(23)] == first[37:]
    assert epoch_batches([3, 4], 4, seed=1, epoch=0) == [[0, 1]]


def test_batches_hold_sequences_of_similar_length() -> None:
    lengths = [(37 * i) % 199 + 1 for i in range(512)]
    spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in epoch_batches(lengths, 8, 1, 0)]
    assert sum(spread) / len(spread) < 20


def test_collate_pads_on_the_right() -> None:
    batch = collate([Rendered([5, 6, 7], [False, True, True]), Rendered([8], [True])])
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.loss_mask.tolist() == [[False, True, True], [True, False, False]]
    assert batch.document_ids.tolist() == [[0, 0, 0], [0, -1, -1]]


def test_long_conversations_are_cut_behind_an_answer() -> None:
    long = example(30, answers=((4, 9), (14, 20), (24, 29)))
    assert len(cut(long, 30).input_ids) == 30
    assert [len(cut(long, n).input_ids) for n in (29, 28, 20, 19, 9)] == [29, 20, 20, 9, 9]
    assert (
        len(cut(long, 7).input_ids) == 7 and cut(long, 7).loss_mask[4:].tolist() == [True] * 3
    )  # the first one, in part
    assert cut(long, 20) == Rendered(long.input_ids[:20], long.loss_mask[:20])


def test_packed_rows_hold_every_example_once_and_whole() -> None:
    examples = [example((13 * i) % 50 + 4, start=i) for i in range(1300)]
    rows = pack(examples, 64, seed=3)
    assert all(len(row.input_ids) <= 64 for row in rows)
    found = []
    for row in rows:
        assert row.document_ids is not None and row.document_ids.tolist() == sorted(row.document_ids)
        for number in range(row.document_ids[-1] + 1):
            at = row.document_ids == number
            found.append((row.input_ids[at].tolist(), row.loss_mask[at].tolist()))
    assert sorted(found) == sorted((e.input_ids.tolist(), e.loss_mask.tolist()) for e in examples)
    assert sum(len(row.input_ids) for row in rows) > 0.97 * 64 * len(rows)
    assert rows == pack(examples, 64, seed=3) != pack(examples, 64, seed=4)


def test_texts_of_a_packed_row_know_nothing_of_each_other(target: Target, drafter: DFlash) -> None:
    """Features, anchors, labels and what the drafter makes of them are those of the texts one by one."""
    examples = [example(length, start=3 * length) for length in (17, 9, 12)]
    (row,) = pack(examples, 40, seed=0)
    packed = collate([row])
    documents = [packed.input_ids[0, packed.document_ids[0] == number].tolist() for number in range(3)]
    order = sorted(examples, key=lambda e: documents.index(e.input_ids.tolist()))
    features = target.features(packed.input_ids, packed.document_ids, drafter.feature_layers)
    grid = drafter.grid(packed, 100, [0])
    hidden = drafter(grid, features)
    start, seen = 0, 0
    for single in order:
        alone = collate([single])
        alone_features = target.features(alone.input_ids, alone.document_ids, drafter.feature_layers)
        torch.testing.assert_close(features[:, start : start + len(single.input_ids)], alone_features)
        alone_grid = drafter.grid(alone, 100, [0])
        n = len(alone_grid.anchors)
        mine = slice(seen, seen + n)
        assert torch.equal(grid.anchors[mine] - start, alone_grid.anchors)
        assert torch.equal(grid.valid[mine], alone_grid.valid)
        assert torch.equal(grid.labels[mine][alone_grid.valid], alone_grid.labels[alone_grid.valid])
        torch.testing.assert_close(hidden[mine], drafter(alone_grid, alone_features), rtol=1e-4, atol=1e-4)
        start, seen = start + len(single.input_ids), seen + n
    assert seen == len(grid.anchors)


def test_text_takes_five_bytes_a_token_and_a_piece_does_not_keep_the_whole() -> None:
    tracemalloc.start()
    try:
        held = [Rendered(list(range(1000, 6000)), [n % 2 == 0 for n in range(5000)]) for _ in range(20)]
        whole = tracemalloc.get_traced_memory()[0]
        held = [cut(example, 500) for example in held]
        cut_off = tracemalloc.get_traced_memory()[0]
        del held[:]
        rows = pack([example(50) for _ in range(2000)], 5000, seed=0)
        packed = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert whole < 5.2 * 20 * 5000 and cut_off < 7 * 20 * 500
    assert packed < 9.2 * 2000 * 50 and rows[0].document_ids is not None


def test_learnable() -> None:
    assert learnable(Rendered([1, 2], [True, True])) and not learnable(Rendered([1, 2, 3], [True, False, True]))


@pytest.fixture
def small(target: Target, tokenizer: PreTrainedTokenizerFast) -> Target:
    return Target(target.model, tokenizer, "small")


@pytest.fixture(scope="session")
def tokenizer(target_directory: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(target_directory)


def test_examples_from_sources(small: Target, conversations: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"prompt": f"a {i}", "response": "the dog"}) for i in range(10)))
    sources = ({"source": str(conversations), "weight": 1.5}, str(other))
    section = DataSection(train=sources, max_length=60)
    found = prepare_examples(section, small, NOBODY, seed=0)
    assert len(found.examples) == 36 + 10 and found.thinking is None
    assert [note for note in found.notes if "nothing says that its answers are the target's own" in note] == found.notes
    packing = DataSection(train=sources, max_length=60, packing=True)
    packed = prepare_examples(packing, small, NOBODY, seed=0)
    assert sum(len(row.input_ids) for row in packed.examples) == sum(len(e.input_ids) for e in found.examples)
    assert "46 examples packed into" in packed.notes[-1]
    assert packed.examples == prepare_examples(packing, small, NOBODY, seed=0).examples


def test_a_template_that_writes_the_date_is_said_to(small: Target, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"prompt": "the cat", "response": "sat"}))
    dated = copy.deepcopy(small.tokenizer)
    assert dated is not None
    dated.chat_template = "{{ strftime_now('%d %b') }}" + str(dated.chat_template)
    found = prepare_examples(DataSection(train=(str(path),)), Target(small.model, dated, "small"), NOBODY, seed=0)
    assert "today's date" in found.notes[-1]
    day = date(2026, 3, 1)
    target = Target(small.model, dated, "small", date=day)
    pinned = prepare_examples(DataSection(train=(str(path),), date=day), target, NOBODY, seed=0)
    assert not any("date" in note for note in pinned.notes) and pinned.date == day
    assert target.chat.decode(pinned.examples[0].input_ids).startswith("01 Mar")
    assert pinned.template_hash != found.template_hash
    with pytest.raises(ValueError, match="load the target with the thinking flag and the date"):
        prepare_examples(DataSection(train=(str(path),)), target, NOBODY, seed=0)


def test_two_halves_of_one_source_are_different_halves(small: Target, conversations: Path) -> None:
    half = {"source": str(conversations), "weight": 0.5}
    found = prepare_examples(DataSection(train=(half, half), max_length=60), small, NOBODY, seed=0).examples
    first, second = found[: len(found) // 2], found[len(found) // 2 :]
    assert len(first) == len(second) and first != second


def test_what_is_cut_off_is_said(small: Target, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("the cat " * 30, "the cat " * 5)))
    found = prepare_examples(DataSection(train=(str(path),), max_length=20), small, NOBODY, seed=0)
    whole = prepare_examples(DataSection(train=(str(path),), max_length=100), small, NOBODY, seed=0)
    said = "1 of 2 examples are longer than 20 tokens and were cut: 56.9% of the learned tokens are lost"
    assert said in found.notes and len(whole.notes) == len(found.notes) - 1


def test_data_without_anything_to_learn_is_an_error(small: Target, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"prompt": "x " * 50, "response": "y"}))
    with pytest.raises(UserError, match="the loss mask is zero everywhere"):
        prepare_examples(DataSection(train=(str(path),), max_length=20), small, NOBODY, seed=0)
    path.write_text("\n".join(json.dumps({"prompt": "x", "response": r}) for r in ("the cat sat", "")))
    found = prepare_examples(DataSection(train=(str(path),)), small, NOBODY, seed=0)
    assert len(found.examples) == 1 and "1 of 2 examples were left out" in " ".join(found.notes)
    path.write_text(json.dumps({"messages": [ASKED, {"role": "assistant", "content": "x", "reasoning": "y"}]}))
    with pytest.raises(UserError, match=r"x\.jsonl, line 1: the chat template does not render the reasoning"):
        prepare_examples(DataSection(train=(str(path),)), small, NOBODY, seed=0)


def test_cut_and_looping_conversations_are_left_out_and_counted(small: Target, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    asked = {"role": "user", "content": "the cat"}
    records = [
        {"messages": [asked, {"role": "assistant", "content": "sat on the mat"}], "finish_reason": reason}
        for reason in ("stop", "length", "length")
    ]
    records += [{"prompt": "the cat", "response": "a dog " * 12}, {"text": "a dog " * 12}]
    path.write_text("\n".join(map(json.dumps, records)))

    def notes_of(**settings: Any) -> tuple[int, list[str]]:
        found = prepare_examples(DataSection(train=(str(path),), **settings), small, NOBODY, seed=0)
        return len(found.examples), [note for note in found.notes if "conversations were" in note]

    count, (looping, cut) = notes_of()
    assert count == 2  # bare text is no answer and may repeat itself
    assert looping.startswith("1 of 5 conversations were left out: an answer repeats itself")
    assert cut.startswith("2 of 5 conversations were left out: the last answer was ended by a length limit")
    assert notes_of(skip_cut=False) == (4, [looping]) and notes_of(looping="keep") == (3, [cut])
    assert notes_of(skip_cut=False, looping="keep") == (5, [])
    assert notes_of(looping="trim") == (3, [cut, "1 of 5 conversations were trimmed: an answer repeats itself"])
    assert [DataSection.model_validate({"skip_looping": old}).looping for old in (True, False)] == ["skip", "keep"]
    path.write_text("\n".join(map(json.dumps, records[1:4])))
    with pytest.raises(UserError, match=r"nothing is left to train on: 1 of 3 .* repeats .*; 2 of 3 .*skip_cut=false"):
        notes_of()


def test_the_hash_of_the_texts_knows_every_token_but_todays_date(small: Target, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"

    def hash_of(target: Target, *words: str) -> str:
        path.write_text("\n".join(json.dumps({"prompt": words[0], "response": word}) for word in words[1:]))
        return prepare_examples(DataSection(train=(str(path),)), target, NOBODY, seed=0).texts

    same = hash_of(small, "the cat", "sat on", "a dog")
    assert same == hash_of(small, "the cat", "sat on", "a dog")
    others = (("the dog", "sat on", "a dog"), ("the cat", "a dog", "sat on"), ("the cat", "sat on", "a cat"))
    assert len({same, *(hash_of(small, *words) for words in others)}) == 4
    dated = [copy.deepcopy(small.chat.tokenizer) for _ in range(2)]
    for tokenizer, day in zip(dated, ("'1'", "'22'"), strict=True):
        tokenizer.chat_template = "{{ strftime_now(" + day + ") }}" + str(tokenizer.chat_template)
    today, tomorrow = (hash_of(Target(small.model, tokenizer), "the cat", "sat on") for tokenizer in dated)
    assert today == tomorrow != hash_of(small, "the cat", "sat on")
