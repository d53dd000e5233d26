"""Files and directories are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from paradraft.errors import UserError
from paradraft.files import replaced_file, whole_directory, write_text


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
