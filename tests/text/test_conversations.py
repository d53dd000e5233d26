"""Records of every shape, sources of every kind, bad records named and tolerated in small numbers."""

from __future__ import annotations

import gzip
import json
import os
import random
import threading
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from demo_target.tokenizer import train_tokenizer
from paradraft.errors import UserError
from paradraft.models.chat import ChatText
from paradraft.text.conversations import BadRecord, parse_record
from paradraft.text.prepare import render_reading
from paradraft.text.sources import Reading, check_bad_share, read_source, weighted

PAIR = {"prompt": "c", "response": "d"}
CALL = {"function": {"name": "look_up", "arguments": '{"word": "cat"}'}}


def contents(record: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in parse_record(record).messages]


@pytest.mark.parametrize(
    "record",
    [
        PAIR,
        {"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}], "prompt": None},
        {"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "c"}]}, {"from": "gpt", "value": "d"}]},
        {"prompt": [{"role": "user", "content": "c"}], "response": "d", "id": 7},
    ],
)
def test_shapes_of_a_question_and_its_answer(record: Any) -> None:
    assert contents(record) == [("user", "c"), ("assistant", "d")]


def test_other_shapes() -> None:
    assert parse_record({"text": "the cat"}).text == "the cat" and parse_record({"text": "the cat"}).answered
    turns = parse_record({"turns": ["a", "b"], "id": 3})
    assert [m["content"] for m in turns.messages] == ["a", "b"] and not turns.answered and turns.id == "3"
    assert contents({"prompt": "a"}) == [("user", "a")]
    assert parse_record({**PAIR, "finish_reason": "length"}).cut
    thinking = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [CALL]}
    called = parse_record({"messages": [{"role": "user", "content": "c"}, thinking], "tools": [{"x": 1}]})
    assert called.messages[1]["reasoning_content"] == "hm" and called.messages[1]["content"] == ""
    assert called.messages[1]["tool_calls"][0]["function"]["arguments"] == {"word": "cat"}
    assert called.tools == ({"x": 1},)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ([1, 2], 'this is no record, it needs "messages"'),
        ({}, 'it needs "messages"'),
        ({"messages": []}, '"messages" must be a list'),
        ({"messages": ["x"]}, "every message must be an object"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 'every message needs a "role"'),
        ({"messages": [{"role": ["user"], "content": "x"}]}, 'every message needs a "role"'),
        ({"messages": [{"role": "user", "content": 3}]}, 'every message needs a text "content"'),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 'every message needs a text "content"'),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, 'every entry of "tool_calls" needs'),
        ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]}, "are not JSON"),
        ({"messages": [{"role": "assistant", "content": "x", "reasoning": 3}]}, "must be text"),
        ({"prompt": "x", "response": 3}, 'text "content"'),
        ({"prompt": "x\ud800", "response": "y"}, "surrogates not allowed"),
        ({"turns": ["x", " "]}, '"turns" must be a list of texts'),
        ({"text": " "}, '"text" is empty'),
        ({**PAIR, "tools": "x"}, '"tools" must be a list'),
        ({**PAIR, "id": "\ud800"}, "surrogates not allowed"),
        ({**PAIR, "tools": [{"name": "\ud800"}]}, "surrogates not allowed"),
        ({**PAIR, "tools": [{"since": date(2026, 1, 1)}]}, "cannot be written as JSON in UTF-8"),
        ({"messages": [{"role": "user", "content": "x", "name": "\ud800"}]}, "surrogates not allowed"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"name": "\ud800"}]}]}, "surrogates not allowed"),
    ],
)
def test_what_is_no_record(record: Any, complaint: str) -> None:
    with pytest.raises(BadRecord, match=complaint):
        parse_record(record)


def write_lines(path: Path, records: list[Any]) -> Path:
    text = "\n\n".join(json.dumps(record) for record in records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def asked(reading: Reading) -> list[str]:
    return [conversation.messages[0]["content"] for conversation in reading.conversations]


def test_sources_of_every_kind_hold_the_same(tmp_path: Path) -> None:
    records = [{"prompt": f"c{i}", "response": "d", "note": None} for i in range(5)]
    table = pyarrow.Table.from_pylist(records)
    parquet.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "folder").mkdir()
    parquet.write_table(table, tmp_path / "folder" / "x.parquet")
    datasets.Dataset.from_list(records).save_to_disk(str(tmp_path / "saved"))
    write_lines(tmp_path / "x.jsonl", records)
    write_lines(tmp_path / "x.jsonl.gz", records)
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "x.jsonl").read_bytes())
    for name in ("x.jsonl", "x.jsonl.gz", "bom.jsonl", "x.parquet", "folder", "saved"):
        reading = read_source(str(tmp_path / name))
        assert asked(reading) == [f"c{i}" for i in range(5)] and not reading.bad
        assert asked(read_source(str(tmp_path / name), limit=2)) == ["c0", "c1"]
    assert reading.conversations[3].place == f"{tmp_path / 'saved'}, row 4"


def test_a_json_list_is_read_record_by_record(tmp_path: Path) -> None:
    share = {"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]}
    text = json.dumps([share, 7, {"prompt": "e", "response": "f"}], indent=1)
    (tmp_path / "x.json").write_text("\ufeff \n" + text, encoding="utf-8")
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("x.json", "x.json.gz"):
        reading = read_source(str(tmp_path / name))
        assert asked(reading) == ["c", "e"]
        assert [b.place for b in reading.bad] == [f"{tmp_path / name}, record 2"]
    (tmp_path / "x.json").write_text(text[:-9])
    with pytest.raises(UserError, match="begins as a JSON list but is not JSON: "):
        read_source(str(tmp_path / "x.json"))
    write_lines(tmp_path / "lines.json", [PAIR, PAIR])
    write_lines(tmp_path / "x.jsonl", [[PAIR], PAIR])  # lines all the same: a list is one bad record of them
    assert len(read_source(str(tmp_path / "lines.json")).conversations) == 2
    assert len(read_source(str(tmp_path / "x.jsonl")).conversations) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_read_whole(tmp_path: Path) -> None:
    pipe, text = tmp_path / "pipe", "".join(json.dumps({**PAIR, "prompt": f"c{i}"}) + "\n" for i in range(2000))
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(text))
    writer.start()
    assert asked(read_source(str(pipe))) == [f"c{i}" for i in range(2000)]
    writer.join()


def test_tables_do_not_add_fields_to_a_record(tmp_path: Path) -> None:
    """Arrow fills what another record has with null: in the arguments of a call the target would learn to write it."""
    calls = ({"name": "look", "arguments": {"word": "cat"}}, {"name": "count", "arguments": {"to": 3}})
    asked = {"role": "user", "content": "c"}
    records: list[Any] = [{"messages": [asked, {"role": "assistant", "tool_calls": [call]}]} for call in calls]
    records.append({"messages": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]})
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "x.parquet")
    datasets.Dataset.from_list(records).save_to_disk(str(tmp_path / "saved"))
    for name in ("x.parquet", "saved"):
        reading = read_source(str(tmp_path / name))
        assert not reading.bad and asked == reading.conversations[2].messages[0]
        called = [conversation.messages[1]["tool_calls"] for conversation in reading.conversations[:2]]
        assert called == [[{"type": "function", "function": call}] for call in calls]


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    texts = pyarrow.array([b"a", b"\xff\xfe", b"c"], pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, texts.buffers())
    parquet.write_table(pyarrow.table({"prompt": column, "response": ["d"] * 3}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read: 'utf-8' codec"):
        read_source(str(tmp_path / "x.parquet"))
    pictures = datasets.Dataset.from_list([{**PAIR, "image": {"bytes": b"none", "path": None}}])
    pictures.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"saved, row 1 cannot be read"):
        read_source(str(tmp_path / "saved"))


def test_data_sets_of_the_hub_are_named_with_subset_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[tuple[str, str | None]] = []

    def load(name: str, subset: str | None = None) -> Any:
        asked_for.append((name, subset))
        return {"train": [PAIR], "test": [PAIR, PAIR]} if name == "a/b" else {"only": [PAIR] * 3}

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [len(read_source(name).conversations) for name in ("a/b", "a/b:c@test", "d/e.f")] == [1, 2, 3]
    assert asked_for == [("a/b", None), ("a/b", "c"), ("d/e.f", None)]
    with pytest.raises(UserError, match=r"has the splits train, test; name one of them: owner/name@split"):
        read_source("a/b@validation")


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    contents = {
        "rotten.jsonl.gz": gzip.compress(b"x" * 999)[:20] + b"\xff" * 40,
        "torn.jsonl.gz": gzip.compress(json.dumps(PAIR).encode() * 99)[:-9],
        "torn.parquet": b"PAR1",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_source(str(tmp_path / name))
    for name in ("none.jsonl", "nobody/nothing", "nothing"):
        with pytest.raises(UserError, match="cannot be read"):
            read_source(name)


def test_bad_records_are_named_and_tolerated_in_small_numbers(tmp_path: Path) -> None:
    lines = [json.dumps(PAIR).encode()] * 300
    lines[1], lines[7], lines[9] = b"{not json", '{"prompt": "\xe9"}'.encode("latin-1"), b'{"prompt": "x"}'
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(lines))
    reading = read_source(str(path))
    assert len(reading.conversations) == 297
    assert [b.place for b in reading.bad] == [f"{path}, line {n}" for n in (2, 8, 10)]
    notes = check_bad_share([reading], 0.01, ["x"])
    assert notes[0].startswith("3 of 300 records were left out") and "line 2: this is not JSON: " in notes[0]
    assert "line 8: this is not UTF-8 (byte 12)" in notes[1] and "line 10: there is no assistant message" in notes[2]
    with pytest.raises(UserError, match=r"line 2: this is not JSON: .*3 of 300 records are bad"):
        check_bad_share([reading], 0.009, ["x"])
    assert len(read_source(str(path), prompts=True).conversations) == 298
    with pytest.raises(UserError, match="y holds no conversation"):
        check_bad_share([reading, Reading()], 0.01, ["x", "y"])


def test_weights_repeat_and_thin_out() -> None:
    items = list(range(100))
    assert weighted(items, 1, "s") == items
    assert weighted(items, 2, "s") == items * 2
    half = weighted(items, 0.5, "s")
    assert len(half) == 50 == len(set(half)) and half == sorted(half) == weighted(items, 0.5, "s")
    assert half != weighted(items, 0.5, "another") and len(weighted(items, 1.25, "s")) == 125
    with pytest.raises(UserError, match="leaves nothing"):
        weighted([1], 0.1, "s")


def mutated(line: bytes, rng: random.Random) -> bytes:
    """A line that is damaged in one of many ways; some of the results are still records."""
    record = json.loads(line)
    kind = rng.randrange(10)
    if kind == 0:
        return line[: rng.randrange(len(line))]
    if kind == 1:
        at = rng.randrange(len(line))
        return line[:at] + bytes([rng.choice([0, 0x80, 0xC3, 0xFF])]) + line[at + 1 :]
    if kind == 2:
        return line.decode().encode(rng.choice(["utf-16", "utf-32", "utf-16-le"])).replace(b"\n", b" ")
    if kind == 3:
        return b"[" * rng.randrange(1, 200_000)
    if kind == 4:
        record["messages"][0]["content"] = "huge " * 100_000
    elif kind == 5:
        record["messages"] = rng.choice([None, 3, "x", {}, [], [[]], [None], [{"role": {}, "content": []}]])
    elif kind == 6:
        message, value = record["messages"][rng.randrange(2)], rng.choice([1, None, [], {}, 1e400])
        message[rng.choice(["role", "content"])] = value
    elif kind == 7:
        return rng.choice([b"", b" \t", b"null", b"NaN", b'"x"', b"9" * 9000, b"{}", b'{"text": null}', b"\x00"])
    elif kind == 8:
        record["messages"][1]["content"] += rng.choice(["\ud800", "\u2028", "\x00", "<|im_end|>"])
    else:
        record["messages"][1][rng.choice(["tool_calls", "reasoning_content"])] = rng.choice([7, [7], {"name": 1}, "x"])
    return json.dumps(record).encode()


def test_two_thousand_damaged_lines_cost_no_good_record(tmp_path: Path) -> None:
    """No damage is an exception, in reading or in rendering, and none reaches the lines beside it."""
    rng = random.Random(4)
    lines, good = [], []
    for i in range(2000):
        messages = [{"role": "user", "content": f"frage {i} é"}, {"role": "assistant", "content": "ja 猫"}]
        line = json.dumps({"messages": messages}, ensure_ascii=False).encode()
        good.append(f"frage {i} é")
        lines += [line, mutated(line, rng)]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(lines))
    reading = read_source(str(path))
    found = {c.place: c.messages[0]["content"] for c in reading.conversations}
    assert [found.get(f"{path}, line {2 * i + 1}") for i in range(2000)] == good
    assert 1000 < len(reading.bad) < 2000
    assert all(bad.reason and bad.place.startswith(f"{path}, line ") for bad in reading.bad)
    with pytest.raises(UserError, match="more than the tolerated share"):
        check_bad_share([reading], 0.01, ["x"])
    changed = [c for c in reading.conversations if int(c.place.split()[-1]) % 2 == 0]
    small = [c for c in changed if sum(len(m["content"]) for m in c.messages) < 1000]
    tokenizer = train_tokenizer(["frage ja"])
    survivors = Reading(small)
    rendered = render_reading(ChatText.of(tokenizer), survivors)
    assert len(rendered) + len(survivors.bad) == len(small) > 100
