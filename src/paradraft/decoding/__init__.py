"""Decoding: draft, verify, accept, commit. Plain decoding is the same loop without a drafter."""

from .engine import Engine
from .length import DraftLength
from .request import Event, Generation, Request
from .sampling import Sampling
from .timing import Seconds

__all__ = ["DraftLength", "Engine", "Event", "Generation", "Request", "Sampling", "Seconds"]
