"""The target: the large language model whose output distribution must be preserved."""

from .slots import KeyValueSlots
from .target import Target

__all__ = ["KeyValueSlots", "Target"]
