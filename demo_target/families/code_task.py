"""The code family's machinery: a task is a row of data, and its result is what the generated code gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from string import Template as Text
from textwrap import indent
from typing import Any

from .base import Example, Template, pairs

Args = tuple[Any, ...]
Lines = Iterator[str]

SINGULAR = pairs(  # of the names that lists can have
    "numbers:number values:value nums:num scores:score prices:price sizes:size words:word names:name labels:label "
    "items:item things:thing entries:entry elements:element group:member"
)

FUNCTION_PROMPTS = (
    "Write a Python function `$sig` that returns $what. Show what `$call` returns.",
    "Define `$sig` in Python so that it returns $what. Then trace `$call`.",
    "I need a short Python function that returns $what. Call it `$sig`. What is the result of `$call`?",
    "Implement `$sig`, which returns $what, in Python. Work through `$call` step by step.",
)
CLASS_PROMPTS = (
    "Write a Python class `$f` with $what. Show what `$call` returns.",
    "Define a small Python class `$f`. It needs $what. Then trace `$call`.",
    "I need a Python class called `$f` with $what. What is the result of `$call`?",
)
SNIPPET_PROMPTS = (
    "What does this Python code print?\n\n```python\n$source\n```",
    "Trace this Python snippet and say what it prints.\n\n```python\n$source\n```",
    "Read the code below. What is printed?\n\n```python\n$source\n```",
)
FUNCTION_ANSWER = "```python\n$source\n```\n\n$how\n\nTrace of `$call`:\n$trace\n\n`$f` returns $final."
CLASS_ANSWER = "```python\n$source\n```\n\n$how\n\nTrace of `$call`:\n$trace\n\nThe call returns $final."
SNIPPET_ANSWER = "$how\n\nTrace:\n$trace\n\nThe code prints $final."


@dataclass(frozen=True)
class Task:
    """One kind of question. All texts may use $f (the name), $p $q $r (parameters), $x (one element of $p)."""

    names: str  # possible names of the function or class; the first one names the template
    params: tuple[str, ...]  # possible names of each parameter; `a,b` names two at once
    what: str
    body: str  # of the function; for a class or snippet, the whole source
    how: str
    draw: Callable[[random.Random], Args]
    trace: Callable[..., Lines]  # called with the drawn arguments
    call: str = "$f($args)"
    prompts: tuple[str, ...] = FUNCTION_PROMPTS
    answer: str = FUNCTION_ANSWER


def run(source: str, expression: str) -> Any:
    """Execute `source`, then evaluate `expression` in what it defined."""
    scope: dict[str, Any] = {}
    exec(source, scope)
    return eval(expression, scope)


def example(task: Task, rng: random.Random) -> Example:
    """Draw names and arguments, fill in the texts, and compute the result by running the code."""
    args = task.draw(rng)
    params = [name for choices in task.params for name in rng.choice(choices.split()).split(",")]
    names: dict[str, Any] = dict(zip("pqrs", params, strict=False))
    names |= dict(zip("abcd", map(repr, args), strict=False))
    names["f"] = rng.choice(task.names.split())
    names["x"] = SINGULAR.get(params[0], "")
    names["args"] = ", ".join(map(repr, args))
    names["sig"] = f"{names['f']}({', '.join(params[: len(args)])})"

    def fill(text: str) -> str:
        return Text(text).substitute(names)

    names["what"], names["how"] = fill(task.what), fill(task.how)
    names["call"], names["source"] = fill(task.call), fill(task.body)
    if task.prompts is FUNCTION_PROMPTS:
        head = fill('def $sig:\n    """Return $what."""\n')
        names["source"] = head + indent(names["source"], "    ")
    snippet = task.prompts is SNIPPET_PROMPTS
    result = run(names["source"], names["call"])
    final = str(result) if snippet else repr(result)
    if snippet:
        names["source"] += fill("\nprint($call)")
    names["trace"] = fill("\n".join(f"- {line}" for line in task.trace(*args)))
    names["final"] = final
    return Example(fill(rng.choice(task.prompts)), fill(task.answer), final)


def template(task: Task) -> Template:
    """The template of one task, called by the task's first name."""

    def draw(rng: random.Random) -> Example:
        return example(task, rng)

    draw.__name__ = draw.__qualname__ = task.names.split()[0].lower()
    return draw
