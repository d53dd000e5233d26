"""Reading and writing a drafter's directory. What is wrong with one raises a UserError; nothing is guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError
from ..files import read_json
from ..models import Target
from .base import Drafter
from .vocabulary import VOCABULARY_MAPS, DraftVocabulary

RESERVED = re.compile(r"[<\[].*(reserved|unused).*[>\]]")  # such as <|reserved_0|> or [unused7], not the plain words


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a drafter directory."""
    try:
        config = read_json(directory / "config.json")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"drafter {directory}: there is no config.json in it; give a drafter's directory") from None
    except (OSError, ValueError) as error:
        raise UserError(f"drafter {directory}: config.json cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"drafter {directory}: config.json does not hold an object")
    return config


def check_rope(config: Mapping[str, Any], where: Path) -> None:
    """Refuse rotary positions that DFlash's layers do not have: scaled, partial or interleaved ones."""
    parameters = config.get("rope_parameters") or {}
    for scaling in (config.get("rope_scaling") or {}, parameters):
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default" or scaling.get("partial_rotary_factor", 1) != 1:
            raise UserError(
                f"drafter {where}: its rotary positions are of type {kind!r} or cover a part of each head, which "
                "paradraft's DFlash does not support; use a drafter with plain ones"
            )
    if config.get("is_neox_style") is False or config.get("rope_is_neox_style") is False:
        raise UserError(f"drafter {where}: its rotary positions are interleaved, which paradraft does not support")
    thetas = {float(part["rope_theta"]) for part in (config, parameters) if part.get("rope_theta") is not None}
    if len(thetas) > 1:
        raise UserError(f"drafter {where}: config.json gives rope_theta twice, as {min(thetas)} and {max(thetas)}")


def write_directory(directory: Path, config: dict[str, Any], drafter: Drafter) -> None:
    """Write config.json and model.safetensors; both record a reduced vocabulary."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in drafter.state_dict().items()}
    if drafter.vocabulary is not None:
        tensors |= drafter.vocabulary.tensors()
        config = {**config, "draft_vocab_size": len(drafter.vocabulary)}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def dtype_name(tensor: Tensor) -> str:
    """The dtype as config.json writes it, such as bfloat16."""
    return str(tensor.dtype).removeprefix("torch.")


def read_weights(directory: Path, drafter: Drafter) -> dict[str, Tensor]:
    """model.safetensors, checked name by name and shape by shape against the drafter.

    If the file holds a reduced vocabulary, the drafter is restricted to it. The rest is returned for `load_state_dict`.
    Of a drafter on the "meta" device nothing is read: it has shapes alone.
    """
    if drafter.target.device.type == "meta":
        return drafter.state_dict()
    path = directory / "model.safetensors"
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"drafter {directory}: model.safetensors is missing; copy or train the drafter again") from None
    except Exception as error:
        raise UserError(f"drafter {directory}: model.safetensors is damaged or cut off ({error})") from None
    maps = {name: tensors.pop(name) for name in VOCABULARY_MAPS if name in tensors}
    if maps:
        size = drafter.target.vocabulary_size
        drafter.restrict(DraftVocabulary.from_tensors(maps, size, f"drafter {directory}"))
    expected = drafter.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        name = f"lacks {missing[0]}" if missing else f"holds an unknown tensor {extra[0]}"
        raise UserError(f"drafter {directory}: model.safetensors {name}; it does not fit its config.json")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"drafter {directory}: {name} has shape {list(tensor.shape)}, config.json says "
                f"{list(expected[name].shape)}"
            )
    return tensors


def check_feature_layers(target: Target, layers: Sequence[int]) -> None:
    """UserError if a new drafter would read layers that do not exist, or the last one.

    Engines give the last layer's output before the final norm, Transformers after it: a drafter that reads it drafts
    badly in one of the two.
    """
    target.check_layers(layers)
    last = len(target.layers) - 1
    if any(layer >= last for layer in layers):
        raise UserError(
            f"drafter.feature_layers {list(layers)} include the last layer, whose output engines give before the final "
            f"norm and Transformers after it; use layers up to {last - 1}"
        )


def unused_token(target: Target) -> int:
    """An id that no text contains: a reserved token of the tokenizer, or an embedding row beyond its entries."""
    tokenizer = target.tokenizer
    if tokenizer is None:
        return target.vocabulary_size - 1
    known = tokenizer.get_vocab()
    reserved = [i for token, i in known.items() if RESERVED.fullmatch(token)]
    if reserved:
        return min(reserved)
    beyond = max(known.values(), default=-1) + 1  # ids may have gaps, so their number will not do
    if beyond < target.vocabulary_size:
        return beyond
    raise UserError(
        f"target {target.name}: its tokenizer has no unused token to serve as mask; set drafter.mask_token to an id "
        "that your text never contains"
    )
