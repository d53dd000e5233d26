"""Writing files: directories that can be made, and files that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UserError


def make_directory(path: Path) -> None:
    """Make an output directory before long work begins; what stands in the way is said in a sentence."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be made a directory ({error.strerror}); choose another output") from None


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name beside `path`, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another output or make room") from None
