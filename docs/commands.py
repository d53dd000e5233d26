"""Write docs/reference/commands.md from the commands themselves: `python docs/commands.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from paradraft.cli import app

PAGE = Path(__file__).parent / "reference" / "commands.md"
HEAD = """# Commands

Every command with its arguments and options, as `--help` shows them. This page is generated: `python docs/commands.py`.

A mistake in a command ends with one sentence that says what to do and exit code 2. `paradraft verify` exits with 1 if
decoding is not lossless, and Ctrl-C with 130. A traceback is a bug of paradraft: please report it.
"""


def commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Full names and commands, those of a group within a group included."""
    for part, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {part}")
        else:
            yield f"{name} {part}", command


def section(name: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    behind = [param for param in arguments if (param.metavar or "").startswith("--")]
    before = [param for param in arguments if param not in behind]
    usage = " ".join([name, *map(usage_of, before), "[OPTIONS]", *map(usage_of, behind)])
    options = [row(param) for param in command.params if param.name != "help"]
    about = "\n\n".join(" ".join(paragraph.split()) for paragraph in command.help.split("\n\n"))
    table = "\n".join(["| option | default | meaning |", "|---|---|---|", *options])
    return f"## {name}\n\n{about}\n\n    {usage}\n\n{table}\n"


def usage_of(argument: Any) -> str:
    name = argument.metavar or argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def row(param: Any) -> str:
    if param.param_type_name == "argument":
        names = f"`{param.name.upper()}`"
    else:
        names = " / ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
    return f"| {names} | {default_of(param)} | {cell(param.help or '')} |"


def default_of(param: Any) -> str:
    if param.required:
        return "required"
    value = param.default() if callable(param.default) else param.default
    if value is None or value == [] or value == () or value is False:
        return ""
    return f"`{cell(', '.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))}`"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", chr(92) + "|")


def page() -> str:
    return "\n".join([HEAD, *(section(name, command) for name, command in commands(get_command(app), "paradraft"))])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
