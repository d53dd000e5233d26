"""The target: the large language model whose output distribution must be preserved."""

from .packing import TargetOutput
from .slots import KeyValueSlots
from .target import Target

__all__ = ["KeyValueSlots", "Target", "TargetOutput"]
