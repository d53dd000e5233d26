"""Files: JSON that can be worked with, and files and directories that are whole or absent."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from .errors import UserError

DEEPEST = 100  # lists and objects in one another; far below what Python's recursion can do
HALF = re.compile(r"\\u[dD]")  # how JSON writes a character beyond 16 bits, in two halves


# --- reading JSON -------------------------------------------------------------------------------------------------


def parse_json(text: str | bytes, strict: bool = False) -> Any:
    """The value of JSON in UTF-8. A ValueError says what is wrong with other text, in words that follow "this is".

    Also wrong are values more than DEEPEST deep. `strict`: and numbers that are none, such as NaN, and halves of
    surrogate pairs, which nothing could write again.
    """
    no_numbers: list[str] = []
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(text, parse_constant=no_numbers.append if strict else None)
        if text.count("[") + text.count("{") > DEEPEST:
            check_depth(value)
        if strict and HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise ValueError("not text: it holds half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (character {error.pos})") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError:
        raise ValueError("not JSON that can be read: a number is too long") from None
    if no_numbers:
        raise ValueError(f"not JSON: {no_numbers[0]} is no number there")
    return value


def check_depth(value: Any) -> None:
    """RecursionError for a value that later code could not walk through."""
    level: list[list[Any] | dict[str, Any]] = [[value]]
    for _ in range(DEEPEST + 1):
        inner = (held for one in level for held in (one.values() if isinstance(one, dict) else one))
        level = [held for held in inner if isinstance(held, list | dict)]
    if level:
        raise RecursionError


def read_json(path: Path) -> Any:
    """The value of a file. OSError or ValueError where there is none."""
    return parse_json(path.read_bytes())


@contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """UserError where a file turns out not to be `what`: it cannot be read, or lacks what is taken from it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not {what} ({type(error).__name__}: {error}); {remedy}") from None


# --- writing ------------------------------------------------------------------------------------------------------


def make_directory(path: Path, named: Path | None = None) -> None:
    """Make an output directory before long work begins. UserError, naming `named`, if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{named or path} cannot be made a directory ({error.strerror}); choose another output"
        ) from None


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write under: renamed to `path` when all went well, removed otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another output or make room") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The whole file or nothing."""
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_directory(out: Path, existing: Literal["refuse", "keep", "replace"] = "refuse") -> Iterator[Path]:
    """A directory to fill: renamed to `out` when all went well, removed otherwise.

    `existing`: what stands at `out` is refused, but for an empty directory; or kept (others may make the same directory
    at the same time, and the first to finish wins); or replaced (by the only process that writes it).
    """
    if existing == "refuse" and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another output or remove it")
    named, out = out, out if existing == "replace" else out.resolve()
    temporary = out.with_name(f".{out.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    old = out.with_name(f".{out.name}.old")
    for leftover in out.parent.glob(f".{out.name}.*") if existing == "replace" else [temporary]:
        shutil.rmtree(leftover, ignore_errors=True)
    make_directory(temporary, named)
    try:
        yield temporary
        try:
            if existing == "replace" and out.exists():
                out.rename(old)
            os.replace(temporary, out)  # over an empty directory, too
        except OSError as error:
            if not (existing == "keep" and out.is_dir()):
                raise UserError(f"{named} cannot be written ({error.strerror}); choose another output") from None
        if existing == "replace":
            flush(out.parent)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush(path: Path) -> None:
    """fsync; directories too, where the system has it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no directories
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
