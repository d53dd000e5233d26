"""Writing files: directories that can be made, and files that are whole or absent."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
def new_directory(out: Path, shared: bool = False) -> Iterator[Path]:
    """A directory to fill: renamed to `out` when all went well, removed otherwise.

    Nothing may stand at `out` yet. `shared`: others may make the same directory at the same time, and the first one
    to finish is kept.
    """
    if not shared and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another output or remove it")
    named, out = out, out.resolve()
    temporary = out.with_name(f".{out.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make_directory(temporary, named)
    try:
        yield temporary
        try:
            os.replace(temporary, out)  # over an empty directory, too
        except OSError as error:
            if not (shared and out.is_dir()):
                raise UserError(f"{named} cannot be written ({error.strerror}); choose another output") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
