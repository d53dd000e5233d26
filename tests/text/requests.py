"""Requests of `paradraft data regenerate` and what they wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paradraft.commands.regenerate import RegenerateRequest
from paradraft.decoding import Sampling


def request_for(target: Path, prompts: Path, out: Path, **changes: Any) -> RegenerateRequest:
    settings: dict[str, Any] = {"max_new_tokens": 12, "batch_size": 4, "sampling": Sampling(0.0)} | changes
    return RegenerateRequest(target=str(target), prompts=[str(prompts)], out=out, **settings)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
