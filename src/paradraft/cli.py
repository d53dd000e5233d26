"""The command line: registers every command under its name. Each command is a file in `commands/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from .commands.bench import bench
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.features import features
from .commands.generate import generate
from .commands.import_ import import_
from .commands.inspect import inspect
from .commands.regenerate import regenerate
from .commands.report import report
from .commands.serve import serve
from .commands.study import study
from .commands.train import train
from .commands.verify import verify
from .errors import run_program

SETTINGS: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": "markdown"}

app = typer.Typer(
    name="paradraft",
    help="Parallel draft models: train them, check that decoding stays lossless, measure what they gain.",
    pretty_exceptions_enable=False,
    **SETTINGS,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "eval": evaluate,
    "bench": bench,
    "verify": verify,
    "study": study,
    "generate": generate,
    "import": import_,
    "export": export,
    "report": report,
    "serve": serve,
    "doctor": doctor,
}
DATA_COMMANDS: dict[str, Callable[..., None]] = {"regenerate": regenerate, "inspect": inspect, "features": features}
for name, command in COMMANDS.items():
    app.command(name)(command)

data = typer.Typer(help="Look at training data, have the target answer prompts, write features to disk.", **SETTINGS)
for name, command in DATA_COMMANDS.items():
    data.command(name)(command)
app.add_typer(data, name="data")


def main() -> None:
    run_program("paradraft", app)


if __name__ == "__main__":
    main()
