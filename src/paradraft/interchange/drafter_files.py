"""A drafter's directory as plain data: configuration and tensors, read, written, and read again to compare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..drafters import DRAFTERS, DFlash, Eagle3, kind_of
from ..drafters.directory import read_config
from ..drafters.language_model import OWN_TENSORS
from ..drafters.pard2 import PROJECTION, read_projection
from ..drafters.vocabulary import VOCABULARY_MAPS
from ..errors import UserError, first_line

TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Described:
    """A drafter as its config.json describes it."""

    kind: str
    config: Mapping[str, Any]

    @property
    def bound(self) -> bool:
        """Whether it has the target's width and embedding."""
        return DRAFTERS[self.kind].bound

    @property
    def length(self) -> int:
        """How many tokens it was trained to draft a round."""
        return DRAFTERS[self.kind].trained_length(self.config)

    @property
    def shared(self) -> bool:
        """Whether a language model leaves its embedding and head to the target."""
        return shares_embedding(self.config)


@dataclass(frozen=True)
class DrafterFiles(Described):
    """One of our own directories: its model's weights, and what engines know nothing of.

    `own`: d2t and t2d of a reduced draft vocabulary ([V_d] target id minus draft id, [V] true inside), and the mask's
    embedding of a PARD drafter that shares the target's.
    """

    directory: Path
    weights: dict[str, Tensor]
    own: dict[str, Tensor]

    @property
    def reduced(self) -> bool:
        """Whether it drafts from a part of the target's vocabulary."""
        return "d2t" in self.own

    def draft_ids(self) -> Tensor:
        """The target's ids [V_d] of a reduced vocabulary."""
        return target_ids(self.own["d2t"])


def read_drafter_files(directory: Path) -> DrafterFiles:
    """One of our own directories; other layouts are a matter of import."""
    tensors = read_tensors(directory)
    own = {name: tensors.pop(name) for name in VOCABULARY_MAPS if name in tensors}
    if (directory / OWN_TENSORS).is_file():
        own |= load_file(directory / OWN_TENSORS)
    return DrafterFiles(kind_of(directory), read_config(directory), directory, tensors, own)


def shares_embedding(config: Mapping[str, Any]) -> bool:
    return bool((config.get("paradraft") or {}).get("share_embedding"))


def target_ids(d2t: Tensor) -> Tensor:
    """The target's id of every draft id, [V_d]."""
    return d2t.long() + torch.arange(len(d2t))


def inside(d2t: Tensor, vocabulary: int) -> Tensor:
    """t2d [V]: which of the target's tokens can be drafted."""
    return torch.zeros(vocabulary, dtype=torch.bool).index_fill(0, target_ids(d2t), True)


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of the model*.safetensors files, on the CPU."""
    paths = sorted(directory.glob("model*.safetensors"))
    if not paths:
        raise UserError(
            f"{directory} holds no model*.safetensors; convert its weights to safetensors first "
            "(only the small PARD-2 projection is read from a pickle)"
        )
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            tensors |= load_file(path)
        except Exception as error:  # damaged files surface as errors of many kinds
            raise damaged(path, error) from None
    return tensors


def tensor_names(directory: Path) -> frozenset[str]:
    """The names alone, from the headers of the same files and of what engines know nothing of."""
    names: set[str] = set()
    for path in (*directory.glob("model*.safetensors"), *directory.glob(str(OWN_TENSORS))):
        try:
            with safe_open(path, framework="pt") as file:
                names.update(file.keys())
        except Exception as error:  # damaged files surface as errors of many kinds
            raise damaged(path, error) from None
    return frozenset(names)


def damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged or cut off ({first_line(error)})")


def write_drafter_files(out: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """config.json and model.safetensors in a directory that exists; both are read again and compared."""
    written = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(written, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    compare(written, read_tensors(out), out)
    if read_config(out) != json.loads(json.dumps(config)):
        raise UserError(f"{out}: config.json read back differs from what was written; the disk may be faulty")


def compare(written: Mapping[str, Tensor], read: Mapping[str, Tensor], out: Path) -> None:
    """Refuse what does not read back with the same names, types, shapes and bits."""
    for name in sorted(written.keys() | read.keys()):
        mine, theirs = written.get(name), read.get(name)
        if mine is None or theirs is None or mine.dtype != theirs.dtype or not torch.equal(mine, theirs):
            raise UserError(f"{out}: {name} read back differs from what was written; the disk may be faulty")


def copy_tokenizer(source: Path, out: Path) -> None:
    """Tokenizer, chat template and generation settings, as they are."""
    for pattern in (*TOKENIZER, "generation_config.json"):
        for path in source.glob(pattern):
            shutil.copyfile(path, out / path.name)


def write_projection(out: Path, weight: Tensor) -> None:
    """PARD-2's projection where our own directories keep it."""
    (out / PROJECTION).parent.mkdir(exist_ok=True)
    save_file({"target_proj.weight": weight.contiguous()}, out / PROJECTION)
    compare({"target_proj.weight": weight}, {"target_proj.weight": read_projection(out)}, out)


def only(config: Mapping[str, Any], keys: tuple[str, ...], where: Path) -> dict[str, Any]:
    """These keys of a configuration; a missing one is refused."""
    missing = [key for key in keys if config.get(key) is None]
    if missing:
        raise UserError(f"drafter {where}: config.json lacks {missing[0]}")
    return {key: config[key] for key in keys}


def engine_config(
    drafter: type[DFlash] | type[Eagle3], config: Mapping[str, Any], where: Path, **explicit: Any
) -> dict[str, Any]:
    """config.json for engines, from one of ours: known fields only, and `explicit` what a reader might guess."""
    only(config, tuple(drafter.config_class.saved_as.values()), where)
    found = drafter.config_class.from_saved(config, where).saved()
    if "paradraft" not in config:  # settings that nobody made
        found.pop("paradraft", None)
    return {
        "architectures": [drafter.architecture],
        "rope_scaling": None,
        **explicit,
        **found,
        "dtype": config["dtype"],
    }
