"""The pages of docs/reference that are generated say what the code says now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["configuration", "commands"])
def test_the_page_is_fresh(page: str) -> None:
    code = f"import sys; sys.path.insert(0, 'docs'); import {page} as p; sys.exit(p.page() != p.PAGE.read_text())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, f"run `python docs/{page}.py`"
