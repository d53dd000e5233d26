"""Small classes with one method."""

from __future__ import annotations

from .code_task import CLASS_ANSWER, CLASS_PROMPTS, Lines, Task


def area(width: int, height: int) -> Lines:
    """The area of a rectangle."""
    yield f"self.$p = {width}"
    yield f"self.$q = {height}"
    yield f"{width} * {height} = {width * height}"


CLASS_TASKS = (
    Task(
        names="Rectangle Box Panel Field Sheet Tile Room",
        params=("width,height length,width w,h a,b",),
        what="`$p` and `$q` and a method `area`",
        body='class $f:\n    """A rectangle with two sides."""\n\n    def __init__(self, $p, $q):\n'
        "        self.$p = $p\n        self.$q = $q\n\n    def area(self):\n        return self.$p * self.$q",
        how="The constructor stores both sides, and `area` uses them.",
        draw=lambda rng: (rng.randint(2, 12), rng.randint(2, 12)),
        trace=area,
        call="$f($args).area()",
        prompts=CLASS_PROMPTS,
        answer=CLASS_ANSWER,
    ),
)
