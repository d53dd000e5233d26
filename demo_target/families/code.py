"""Small Python tasks: a function, class or snippet, a sentence on how it works, a short trace and the result.

Every template is one `Task`, a row of data. Its result is what the generated code gives when it is executed;
only the trace in between is written by the `trace` generator of the task.
"""

from __future__ import annotations

from .base import Template
from .code_classes import CLASS_TASKS
from .code_dicts import DICT_TASKS
from .code_lists import LIST_TASKS
from .code_numbers import NUMBER_TASKS
from .code_snippets import SNIPPET_TASKS
from .code_task import template
from .code_values import VALUE_TASKS

TASKS = (*NUMBER_TASKS, *LIST_TASKS, *DICT_TASKS, *VALUE_TASKS, *CLASS_TASKS, *SNIPPET_TASKS)
TEMPLATES: tuple[Template, ...] = tuple(template(task) for task in TASKS)
