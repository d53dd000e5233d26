"""Drafters: small models that propose the next tokens of a target. A new one is one file and one entry here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Discriminator, Tag

from ..errors import UserError
from ..models import Target
from ..models.names import drafter_directory
from .base import BranchingDrafter, Drafter, DrafterSection, Proposal, Sampler
from .dflash import DFlash, DFlashSection
from .dflash2 import DFlash2
from .dflash2_tied import DFlash2Tied
from .directory import read_config
from .dspark import DSpark
from .eagle3 import Eagle3
from .grid import Batch, Grid, anchor_grid
from .pard import Pard
from .pard2 import Pard2
from .state import DraftState
from .vanilla import Vanilla

# A directory is read by the first kind that accepts it; the last accepts any causal language model.
DRAFTERS: dict[str, type[Drafter]] = {
    "dflash": DFlash,
    "dflash2": DFlash2,
    "dflash2_tied": DFlash2Tied,
    "dspark": DSpark,
    "eagle3": Eagle3,
    "pard2": Pard2,
    "pard": Pard,
    "vanilla": Vanilla,
}


# The drafter's section of a run's configuration: a union with one member for each drafter, chosen by `kind`.
if TYPE_CHECKING:
    AnyDrafterSection = DrafterSection
else:
    AnyDrafterSection = Annotated[
        Union[tuple(Annotated[drafter.section, Tag(kind)] for kind, drafter in DRAFTERS.items())],  # noqa: UP007
        Discriminator(
            lambda given: given.get("kind", "dflash") if isinstance(given, dict) else getattr(given, "kind", None),
            custom_error_type="drafter_kind",
            custom_error_message=f"kind must be one of {', '.join(DRAFTERS)}",
        ),
    ]


def kind_of(directory: Path) -> str:
    """The kind of drafter in a directory, from the fields of config.json that serving engines read too."""
    config = read_config(directory)
    for kind, drafter in DRAFTERS.items():
        if drafter.reads(config):
            return kind
    raise UserError(
        f"drafter {directory}: its config.json (architectures {config.get('architectures') or []}) does not describe a "
        f"drafter that paradraft reads ({', '.join(DRAFTERS)})"
    )


def load_drafter(name: str | Path, target: Target) -> Drafter:
    """The drafter of that name or directory, whatever its kind, bound to `target`, ready to decode with."""
    directory = drafter_directory(name)
    drafter = DRAFTERS[kind_of(directory)].from_pretrained(directory, target)
    drafter.prepare_decoding()
    return drafter


__all__ = [
    "DRAFTERS",
    "AnyDrafterSection",
    "Batch",
    "BranchingDrafter",
    "DFlash",
    "DFlash2",
    "DFlash2Tied",
    "DFlashSection",
    "DSpark",
    "DraftState",
    "Drafter",
    "DrafterSection",
    "Eagle3",
    "Grid",
    "Pard",
    "Pard2",
    "Proposal",
    "Sampler",
    "Vanilla",
    "anchor_grid",
    "kind_of",
    "load_drafter",
]
