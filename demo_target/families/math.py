"""Arithmetic: short word problems and number tasks, worked one step per line, every result computed by code.

Sums are split into tens and ones, products stay within 12 x 12 or are split the same way, and divisions are
checked by the product they undo, so that a very small model can follow each step. The answer's wording depends
only on the prompt: each phrasing of a question has its own closing line.
"""

from __future__ import annotations

from . import math_measures, math_money, math_numbers, math_stories
from .base import Template

TEMPLATES: tuple[Template, ...] = (
    *math_money.TEMPLATES,
    *math_stories.TEMPLATES,
    *math_measures.TEMPLATES,
    *math_numbers.TEMPLATES,
)
