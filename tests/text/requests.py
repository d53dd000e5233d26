"""`paradraft data regenerate` as tests call it, and what it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from paradraft.commands.regenerate import regenerate


def request_for(target: Path, prompts: Path, out: Path, **changes: Any) -> Callable[..., None]:
    """The command with these options, still to be called; a call may change some of them."""
    usual = {"max_new_tokens": 12} | ({} if "endpoint" in changes else {"batch_size": 4})
    settings: dict[str, Any] = usual | changes
    return partial(regenerate, target=str(target), prompts=[str(prompts)], out=out, **settings)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
