"""Drafters out to engines and formats, and in from others. Each writer reads again what it wrote and compares."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..drafters import DRAFTERS, kind_of
from ..drafters.directory import read_config
from ..errors import UserError
from ..files import whole_directory
from ..models.names import drafter_directory, is_shipped
from . import LAYOUTS, gguf, speculators, transformers
from .comparison import compare_logits
from .drafter_files import DrafterFiles, compare, read_drafter_files, read_tensors, tensor_names, write_drafter_files
from .layout import ASSUMPTIONS, Foreign, Layout
from .served import SERVED
from .target_side import TargetSide

FORMATS = (*SERVED, "published")
NO_KIND = {"speculators": speculators.NO_KIND, "gguf": gguf.NO_KIND, "transformers": transformers.NO_KIND}
UNREAD = ("gguf", "transformers")  # formats that our own loader does not read


@dataclass(frozen=True)
class Exchanged:
    """What was written: the drafter's kind, what was compared, and what the user should know."""

    kind: str
    compared: str
    notes: list[str]


def export(drafter: str, to: str, out: Path, target: str | None = None, trust_remote_code: bool = False) -> Exchanged:
    """Write a drafter for an engine or format. With a target (a shipped one has its own) logits are compared too."""
    if to not in FORMATS:
        raise UserError(f"--to {to!r} is not known; what is: {', '.join(FORMATS)}")
    name = target or (drafter.partition(":")[0] if is_shipped(drafter) else None)
    side = None if name is None else TargetSide(name, trust_remote_code)
    source = read_drafter_files(drafter_directory(drafter))
    layout = layout_of(source.kind)
    with whole_directory(out) as directory:
        write = layout.write.get(to, NO_KIND.get(to, "paradraft writes no {kind} drafter in this format"))
        if isinstance(write, str):
            raise UserError(write.format(kind=source.kind))
        if side is not None and to in UNREAD:  # what is written is not read again; does the drafter fit this target?
            DRAFTERS[source.kind].from_pretrained(source.directory, side.target)
        notes = write(source, directory, side)
        if to in SERVED:
            notes = [*notes, SERVED[to](source, str(out), side)]
        compared = f"{len(source.weights)} tensors"
        if side is not None and to not in UNREAD:
            check_drafts(source, to, directory, side)
            compared += " and draft logits"
    return Exchanged(source.kind, compared, notes)


def layout_of(kind: str) -> Layout:
    """UserError for a kind of drafter that no engine and no other project has a layout for."""
    if kind not in LAYOUTS:
        raise UserError(f"paradraft knows no other layout for drafters of kind {kind}; use the directory as it is")
    return LAYOUTS[kind]


def check_drafts(source: DrafterFiles, to: str, written: Path, side: TargetSide) -> None:
    """Compare draft logits; what our own loader does not read as it is, or holds more, is imported for that."""
    holds_more = source.bound and tensor_names(written) != source.weights.keys() | source.own.keys()
    if to != "speculators" and not holds_more:
        compare_logits(source.directory, written, side.target, None if to == "published" else "independent")
        return
    with TemporaryDirectory() as scratch:
        again = Path(scratch) / "again"
        import_directory(written, again, side, tuple(ASSUMPTIONS))
        compare(source.weights | source.own, read_tensors(again), written)
        compare_logits(source.directory, again, side.target)


def import_checkpoint(checkpoint: str, out: Path, target: str | None = None, assume: Collection[str] = ()) -> Exchanged:
    """A published checkpoint (`--to published`, or DFlash in the speculators format) as a directory of ours.

    What it leaves open is refused unless `assume` decides it (see ASSUMPTIONS).
    """
    unknown = set(assume) - set(ASSUMPTIONS)
    if unknown:
        raise UserError(f"--assume {sorted(unknown)[0]!r} is not known; what is: {', '.join(ASSUMPTIONS)}")
    return import_directory(drafter_directory(checkpoint), out, None if target is None else TargetSide(target), assume)


def import_directory(where: Path, out: Path, side: TargetSide | None, assume: Collection[str]) -> Exchanged:
    """`import_checkpoint` of a directory, with a target that may be loaded already."""
    config = read_config(where)
    kind = "dflash" if speculators.recognised(config) else kind_of(where)
    layout = layout_of(kind)
    found = Foreign(config, where, assume, read_tensors(where), side)
    with whole_directory(out) as directory:
        own, tensors, notes = layout.read(found)
        write_drafter_files(directory, own, tensors)
        layout.carry(where, directory)
        compared = f"{len(tensors)} tensors"
        if side is not None and DRAFTERS[kind].bound:
            DRAFTERS[kind].from_pretrained(directory, side.target)  # that it fits this target
        elif side is not None:
            compare_logits(where, directory, side.target)
            compared += " and draft logits"
    return Exchanged(kind, compared, notes)
