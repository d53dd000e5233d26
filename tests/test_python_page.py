"""The examples of docs/reference/python.md run, one after the other, where nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_examples_run(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(examples) == 6
    environment = {**os.environ, "PARADRAFT_CACHE": str(tmp_path / "cache")}  # costs that nothing else reads
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(examples)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"runs", "served", "imported"}
