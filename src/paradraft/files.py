"""Writing files: directories that can be made, and files that are whole or absent."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from .errors import UserError


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
    temporary = path.with_name(f".{path.name}.tmp")
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
