"""The target: the large language model whose output distribution must be preserved."""

from .cache import RaggedCache
from .target import Target

__all__ = ["RaggedCache", "Target"]
