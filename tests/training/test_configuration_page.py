"""docs/reference/configuration.md is what the configuration's models say now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_configuration_page_is_fresh() -> None:
    code = "import sys; sys.path.insert(0, 'docs'); import configuration as c; sys.exit(c.page() != c.PAGE.read_text())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, "run `python docs/configuration.py`"
