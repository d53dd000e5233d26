"""Drafters out to engines and formats, and in from others. Each writer reads again what it wrote and compares."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..drafters import DRAFTERS, kind_of
from ..drafters.directory import read_config
from ..drafters.pard2 import read_projection
from ..errors import UserError
from ..files import whole_directory
from ..models.names import drafter_directory, is_shipped
from . import dflash2_layout, dspark_layout, eagle3_layout, gguf, published, sglang, speculators, transformers, vllm
from .comparison import compare_logits
from .dflash_layout import ASSUMPTIONS, understood
from .drafter_files import (
    DrafterFiles,
    compare,
    copy_tokenizer,
    inside,
    read_drafter_files,
    read_tensors,
    target_ids,
    write_drafter_files,
    write_projection,
)
from .language_model_layout import PARD2_KEYS, projected
from .target_side import TargetSide, needed

Writer = Callable[[DrafterFiles, Path, "TargetSide | None"], list[str]]
WRITERS: dict[str, Writer] = {
    "vllm": vllm.write,
    "sglang": sglang.write,
    "speculators": speculators.write,
    "gguf": gguf.write,
    "transformers": transformers.write,
    "published": published.write,
}


@dataclass(frozen=True)
class Exchanged:
    """What was written: the drafter's kind, what was compared, and what the user should know."""

    kind: str
    compared: str
    notes: list[str]


def export(drafter: str, to: str, out: Path, target: str | None = None) -> Exchanged:
    """Write a drafter for an engine or format. With a target (a shipped one has its own) logits are compared too."""
    if to not in WRITERS:
        raise UserError(f"--to {to!r} is not known; what is: {', '.join(WRITERS)}")
    name = target or (drafter.partition(":")[0] if is_shipped(drafter) else None)
    side = None if name is None else TargetSide(name)
    source = read_drafter_files(drafter_directory(drafter))
    check_layout(source.kind)
    with whole_directory(out) as directory:
        notes = WRITERS[to](source, directory, side)
        compared = f"{len(source.weights)} tensors"
        if side is not None and drafts_the_same(source, to, directory, side):
            compared += " and draft logits"
    return Exchanged(source.kind, compared, [note.replace(directory.name, out.name) for note in notes])


def check_layout(kind: str) -> None:
    """UserError for a kind of drafter that no engine and no other project has a layout for."""
    if kind not in vllm.METHODS:
        raise UserError(f"paradraft knows no other layout for drafters of kind {kind}; use the directory as it is")


def drafts_the_same(source: DrafterFiles, to: str, written: Path, side: TargetSide) -> bool:
    """Compare draft logits, refusing a difference; False where our own loader cannot read what was written."""
    if to in ("gguf", "transformers"):
        return False
    if to == "speculators" or source.kind == "dspark" or (source.kind == "dflash" and source.reduced):
        with TemporaryDirectory() as scratch:
            again = Path(scratch) / "again"
            import_directory(written, again, side, tuple(ASSUMPTIONS))
            compare(source.weights | source.own, read_tensors(again), written)
            compare_logits(source.directory, again, side.target)
        return True
    compare_logits(source.directory, written, side.target, None if to == "published" else "independent")
    return True


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
    config, notes = read_config(where), list[str]()
    kind = "dflash" if "speculators_model_type" in config else kind_of(where)
    check_layout(kind)
    tensors = read_tensors(where)
    with whole_directory(out) as directory:
        if kind in ("dflash", "dflash2", "dspark"):
            if "speculators_model_type" in config:
                config, notes = speculators.read(config, tensors, where, side, assume)
            elif kind == "dspark":
                config, notes = dspark_layout.understood(config, where, assume)
            elif kind == "dflash2":
                config, notes = dflash2_layout.understood(config, where, assume)
            else:
                config, notes = understood(config, where, assume)
            tensors = without_the_targets(tensors, where, side, ("embed_tokens.weight", "lm_head.weight"))
            if "d2t" in tensors:
                config["draft_vocab_size"] = len(tensors["d2t"])
                tensors["t2d"] = inside(tensors["d2t"], config["vocab_size"])
            write_drafter_files(directory, config, tensors)
        elif kind == "eagle3":
            config, notes = eagle3_layout.understood(config, where, assume, side)
            tensors = without_the_targets(tensors, where, side, ("embed_tokens.weight",))
            tensors = eagle3_layout.own_tensors(tensors, config, where)
            write_drafter_files(directory, config, tensors)
        else:
            source = DrafterFiles(where, kind, config, tensors, {})
            if source.shares_embedding:
                raise UserError(f"{where} is one of paradraft's own directories: use it as it is")
            keys = PARD2_KEYS if kind == "pard2" else ()
            write_drafter_files(directory, projected(source, keys), tensors)
            copy_tokenizer(where, directory)
            if kind == "pard2":
                write_projection(directory, read_projection(where))
        compared = f"{len(tensors)} tensors"
        if side is not None and DRAFTERS[kind].bound:
            DRAFTERS[kind].from_pretrained(directory, side.target)  # that it fits this target
        elif side is not None:
            compare_logits(where, directory, side.target)
            compared += " and draft logits"
    return Exchanged(kind, compared, notes)


def without_the_targets(
    tensors: dict[str, torch.Tensor], where: Path, side: TargetSide | None, names: Collection[str]
) -> dict[str, torch.Tensor]:
    """A drafter's tensors without an embedding and head by these names, which must be the target's, row by row."""
    kept = dict(tensors)
    for name in names:
        stored = kept.pop(name, None)
        if stored is None:
            continue
        target = needed(side, f"{where} stores {name}, which must be compared with the target's own").target
        own = target.embedding.weight if name.startswith("embed") else target.model.get_output_embeddings().weight
        assert isinstance(own, torch.Tensor)
        if name.startswith("lm_head") and "d2t" in tensors:
            own = own[target_ids(tensors["d2t"])]
        if own.shape != stored.shape or not torch.equal(own.to(stored.dtype), stored):
            raise UserError(
                f"drafter {where}: its {name} is not that of target {target.name}; paradraft's drafters of this kind "
                "use the target's own"
            )
    return kept
