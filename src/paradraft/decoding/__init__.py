"""Decoding: draft, verify, accept, commit. Plain decoding is the same loop without a drafter."""

from .engine import Engine, Generation
from .sampling import Sampling

__all__ = ["Engine", "Generation", "Sampling"]
