"""TensorBoard and Weights & Biases beside metrics.jsonl, through Accelerate's own adapters.

Both are optional (`pip install "paradraft[trackers]"`) and imported only if a run asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from .config import RunConfig

PROJECT = "paradraft"


class Tracker(Protocol):
    """What both offer; only the main process makes them."""

    def start(self) -> None: ...
    def log(self, values: dict[str, float], step: int) -> None: ...
    def finish(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Before anything is loaded: is what the run asks for installed?"""
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"training.trackers names {name}, which is not installed: "
                'pip install "paradraft[trackers]", or leave it out'
            )


def open_trackers(config: RunConfig, step: int) -> list[Tracker]:
    """Those of training.trackers, going on behind `step`: files in the run's tensorboard/ and wandb/ directories.

    W&B goes by its own environment: WANDB_MODE=offline keeps everything on this machine, WANDB_PROJECT renames.
    """
    makers = {"tensorboard": tensorboard, "wandb": wandb}
    return [makers[name](config, step) for name in config.training.trackers]


def tensorboard(config: RunConfig, step: int) -> Tracker:
    from accelerate.tracking import TensorBoardTracker

    tracker: Tracker = TensorBoardTracker("tensorboard", config.output, purge_step=step + 1 if step else 0)
    tracker.start()
    return tracker


def wandb(config: RunConfig, step: int) -> Tracker:
    import os

    from accelerate.tracking import WandBTracker

    directory = Path(config.output)
    directory.mkdir(parents=True, exist_ok=True)
    tracker: Tracker = WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        name=directory.name,
        dir=str(directory),
        config={**config.model_dump(mode="json"), "resumed_at": step},
    )
    tracker.start()
    return tracker


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """Flat names and numbers: a list becomes name/1, name/2, ..., a dictionary name/key; step counts stay out."""
    flat: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat.update(scalars({f"{name}/{key}": inner for key, inner in value.items()}))
        elif isinstance(value, list):
            flat.update(scalars({f"{name}/{i}": inner for i, inner in enumerate(value, 1)}))
        elif isinstance(value, int | float) and name not in ("step", "steps", "time"):
            flat[name] = float(value)
    return flat
