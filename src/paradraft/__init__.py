"""paradraft: parallel draft models for speculative decoding.

The public names load on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from .decoding import Engine, Generation, Sampling
    from .drafters import DFlash, Drafter, load_drafter
    from .models import Target
    from .objectives import Objective

_HOMES = {
    "DFlash": "drafters",
    "Drafter": "drafters",
    "Engine": "decoding",
    "Generation": "decoding",
    "Objective": "objectives",
    "Sampling": "decoding",
    "Target": "models",
    "load_drafter": "drafters",
}

__all__ = ["DFlash", "Drafter", "Engine", "Generation", "Objective", "Sampling", "Target", "UserError", "load_drafter"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
