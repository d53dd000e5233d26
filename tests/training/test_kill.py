"""Training killed with SIGKILL at random moments, half of them while it writes, loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .test_training import config_for
from .test_watch import evaluated

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_resume.py"


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_killed_runs_end_as_if_they_never_were(
    target_directory: Path, conversations: Path, prompts: Path, tmp_path: Path
) -> None:
    config = evaluated(config_for(target_directory, conversations, tmp_path, max_steps=30, save_every=1), prompts)
    (tmp_path / "run.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, str(SCRIPT), "--kills", "6", "--config", str(tmp_path / "run.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == 6 and result["equal"] and result["while_writing"] >= 3
