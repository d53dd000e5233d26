"""Files and directories are whole or absent."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paradraft.errors import UserError
from paradraft.files import parse_json, read_json, reading, replaced_file, whole_directory, write_text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", r"^not JSON: Expecting value \(character 0\)$"),
        (b'{"a": 1,}', "^not JSON: .*character [78]"),
        (b'"\xff"', r"^not UTF-8 \(byte 1\)$"),
        (b"[" * 100_000, "^nested too deep$"),
        (b"[" * 101 + b"]" * 101, "^nested too deep$"),
        (b'{"a": ' * 200 + b"1" + b"}" * 200, "^nested too deep$"),
        (b"9" * 9000, "^not JSON that can be read: a number is too long$"),
        (rb'{"a": "\uD83d"}', "half of a surrogate pair"),
        (rb'["\udc00\ud83d"]', "half of a surrogate pair"),
    ],
)
def test_what_is_no_json_is_said_in_one_way(text: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_json(text, strict=True)


def test_json_that_can_be_worked_with() -> None:
    assert parse_json(rb'{"a": "\ud83d\ude00 \u00e9 \\ud"}') == {"a": "\U0001f600 \u00e9 \\ud"}
    assert parse_json(b"\xef\xbb\xbf[1]") == [1] == parse_json("[1]")
    deep = parse_json(b"[[]," + b"[" * 99 + b"]" * 100)
    assert json.loads(json.dumps(deep)) == deep and len(parse_json(b"[" + b"[]," * 500 + b"[]]")) == 501
    assert parse_json("NaN") != parse_json("NaN")
    with pytest.raises(ValueError, match="NaN is no number"):
        parse_json("NaN", strict=True)


def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"b": 1}')
    wanted = r"x.json is not a list \(KeyError: 'a'\); make one"
    with pytest.raises(UserError, match=wanted), reading(path, "a list", "make one"):
        read_json(path)["a"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replaced_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    with replaced_file(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "none" / "x.txt", "")


def test_a_directory_appears_when_it_is_full(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), whole_directory(out) as directory:
        (directory / "a").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with whole_directory(out) as directory:
        (directory / "a").write_text("whole")
        assert not out.exists()
    assert (out / "a").read_text() == "whole"
    with pytest.raises(UserError, match="exists already"), whole_directory(out):
        pass


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("old", "new"):
        with whole_directory(out, "replace") as directory:
            (directory / text).write_text(text)
    assert [p.name for p in out.iterdir()] == ["new"]
    with pytest.raises(RuntimeError), whole_directory(out, "replace") as directory:
        raise RuntimeError
    (tmp_path / ".out.of-a-killed-run.tmp").mkdir()
    assert [p.name for p in out.iterdir()] == ["new"]
    with whole_directory(out, "replace"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and not list(out.iterdir())


def test_of_two_that_make_a_directory_the_first_wins(tmp_path: Path) -> None:
    with whole_directory(tmp_path / "out", "keep") as mine:
        (mine / "mine").write_text("")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["theirs"]


def test_a_directory_that_cannot_be_made_is_named_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(UserError, match=r"^file/out cannot be made a directory"), whole_directory(Path("file/out")):
        pass
    with pytest.raises(UserError, match=r"^out cannot be written"), whole_directory(Path("out")):
        Path("out").write_text("in the way")


def test_two_that_write_a_file_at_once_leave_one_of_the_two(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    both = threading.Barrier(2)

    def write(text: str) -> None:
        with replaced_file(path) as temporary:
            temporary.write_text(text)
            both.wait(10)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, ("a" * 1000, "b" * 1000))) == [None, None]
    assert path.read_text() in ("a" * 1000, "b" * 1000) and [p.name for p in tmp_path.iterdir()] == ["x.json"]
