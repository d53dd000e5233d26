"""Target features on disk: what training would otherwise compute in every step.

A store is a directory of shards (safetensors, each written under a temporary name and renamed) and a manifest, written
last, that names target, layers, number format, chat template and texts. Reading checks all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import DataSection
from ..errors import UserError
from ..files import read_json, reading, replaced_file, write_text
from ..models import Target
from .prepare import Examples, hash_texts
from .provenance import TargetIdentity

MANIFEST = "manifest.json"
FORMATS = ("bfloat16", "int8")


@dataclass(frozen=True)
class StoreIdentity:
    """All that features depend on. texts: hash over token ids and masks; max_length: where they were cut."""

    target: TargetIdentity
    layers: tuple[int, ...]
    hidden_size: int
    dtype: str
    template_hash: str
    thinking: bool | None
    date: str | None
    max_length: int
    texts: str

    @property
    def bytes_per_token(self) -> int:
        """int8 has one float32 scale for each token and layer."""
        values = len(self.layers) * self.hidden_size
        return values * 2 if self.dtype == "bfloat16" else values + 4 * len(self.layers)

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def store_identity(
    section: DataSection,
    target: Target,
    identity: TargetIdentity,
    data: Examples,
    layers: Sequence[int],
    storage: str,
) -> StoreIdentity:
    """The identity of features of these examples; a run that trains on a store computes it again and compares."""
    return StoreIdentity(
        target=identity,
        layers=tuple(layers),
        hidden_size=target.hidden_size,
        dtype=storage,
        template_hash=data.template_hash,
        thinking=data.thinking,
        date=None if data.date is None else str(data.date),
        max_length=min(section.max_length, target.context_length),
        texts=hash_texts(data.examples),
    )


# --- eight bits --------------------------------------------------------------------------------------------------


def quantize(features: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """[T, layers * H] -> int8 of the same shape and float32 scales [T, layers]: x is about code * scale."""
    parts = features.float().unflatten(-1, (layers, -1))
    scales = parts.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    codes = (parts / scales[..., None]).round().clamp(-127, 127).to(torch.int8)
    return codes.flatten(-2), scales


def dequantize(codes: Tensor, scales: Tensor) -> Tensor:
    """The reverse, in float32."""
    return (codes.unflatten(-1, (scales.shape[-1], -1)).float() * scales[..., None]).flatten(-2)


# --- writing -----------------------------------------------------------------------------------------------------


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def plan_shards(lengths: Sequence[int], bytes_per_token: int, shard_bytes: int) -> list[list[int]]:
    """Numbers of the examples of each shard, in order; a shard holds at least one."""
    shards: list[list[int]] = []
    room = 0
    for number, length in enumerate(lengths):
        if not shards or length * bytes_per_token > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(number)
        room -= length * bytes_per_token
    return shards


def shard_complete(directory: Path, number: int, identity: StoreIdentity, tokens: int) -> bool:
    """Whether an earlier, interrupted run has written this shard with the same identity."""
    path = directory / shard_name(number)
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as shard:
            same = (shard.metadata() or {}).get("identity") == identity.hash
            return same and shard.get_slice("features").get_shape()[0] == tokens
    except SafetensorError:
        return False


def write_shard(directory: Path, number: int, identity: StoreIdentity, features: Tensor) -> None:
    """features [tokens of the shard, layers * hidden] on the CPU."""
    tensors = {"features": features.to(torch.bfloat16)}
    if identity.dtype == "int8":
        codes, scales = quantize(features, len(identity.layers))
        tensors = {"features": codes, "scales": scales}
    contiguous = {name: t.contiguous() for name, t in tensors.items()}
    with replaced_file(directory / shard_name(number)) as temporary:
        save_file(contiguous, temporary, metadata={"identity": identity.hash})


def write_manifest(
    directory: Path, identity: StoreIdentity, lengths: Sequence[int], shards: Sequence[Sequence[int]]
) -> None:
    """Write the manifest, which marks a store as finished."""
    files = [
        {
            "file": shard_name(n),
            "bytes": (directory / shard_name(n)).stat().st_size,
            "lengths": [lengths[i] for i in shard],
        }
        for n, shard in enumerate(shards)
    ]
    write_text(directory / MANIFEST, json.dumps({"identity": asdict(identity), "shards": files}) + "\n")


# --- reading -----------------------------------------------------------------------------------------------------


class FeatureStore:
    """Features by example number, in the order the texts had when they were written."""

    def __init__(self, directory: Path) -> None:
        manifest = read_manifest(directory)
        self.directory = directory
        self.identity: StoreIdentity = manifest[0]
        self.places: list[tuple[int, int, int]] = []  # (shard, first token, tokens) of each example
        for number, shard in enumerate(manifest[1]):
            self._check_shard(number, shard)
            start = 0
            for length in shard["lengths"]:
                self.places.append((number, start, length))
                start += length

    def _check_shard(self, number: int, entry: dict[str, Any]) -> None:
        path = self.directory / entry["file"]
        size = path.stat().st_size if path.is_file() else -1
        tokens = sum(entry["lengths"])
        if size != entry["bytes"] or not shard_complete(self.directory, number, self.identity, tokens):
            raise UserError(f"{path} is missing, damaged or of other features; write the store anew")

    def check(self, wanted: StoreIdentity, storage: bool = False) -> None:
        """Raise UserError unless the store holds what a run wants: the same texts and target, and at least its layers.

        With `storage` the number format must be the same, too.
        """
        held = self.identity
        if not held.target.same(wanted.target):
            raise self._other("target", held.target.label, wanted.target.label)
        if not set(wanted.layers) <= set(held.layers):
            raise self._other("feature layers", held.layers, wanted.layers)
        for name in ("hidden_size", "date", "template_hash", "thinking", "max_length", "texts", *["dtype"] * storage):
            if getattr(held, name) != getattr(wanted, name):
                raise self._other(name.replace("_", " "), getattr(held, name), getattr(wanted, name))

    def _other(self, what: str, held: object, wanted: object) -> UserError:
        return UserError(
            f"the features in {self.directory} are of another {what} ({held}, the run has {wanted}); write them anew "
            "with paradraft data features, or set data.features=null to compute them while training"
        )

    def batch(self, numbers: Sequence[int], layers: Sequence[int], length: int) -> Tensor:
        """Features [examples, length, layers * H] of these examples, zero behind each; float32 where kept as int8."""
        held, width = self.identity.layers, self.identity.hidden_size
        columns = torch.cat([torch.arange(width) + held.index(layer) * width for layer in layers])
        whole = tuple(layers) == held
        dtype = torch.bfloat16 if self.identity.dtype == "bfloat16" else torch.float32
        out = torch.zeros(len(numbers), length, len(layers) * width, dtype=dtype)
        for row, number in enumerate(numbers):
            found = self.example(number)
            out[row, : len(found)] = found if whole else found[:, columns]
        return out

    def example(self, number: int) -> Tensor:
        """[tokens, layers * H] of one example, all layers of the store."""
        shard, start, tokens = self.places[number]
        with safe_open(self.directory / shard_name(shard), "pt") as file:
            features: Tensor = file.get_slice("features")[start : start + tokens]
            if self.identity.dtype == "int8":
                return dequantize(features, file.get_slice("scales")[start : start + tokens])
        return features


def read_manifest(directory: Path) -> tuple[StoreIdentity, list[dict[str, Any]]]:
    path = directory / MANIFEST
    if not path.is_file():
        raise UserError(f"{directory} holds no finished feature store; run paradraft data features to the end")
    with reading(path, "what paradraft data features writes", "write the store anew"):
        found = read_json(path)
        identity = dict(found["identity"])
        identity["target"] = TargetIdentity(**identity["target"])
        identity["layers"] = tuple(identity["layers"])
        shards = found["shards"]
        if not all(isinstance(s["bytes"], int) and isinstance(s["lengths"], list) and s["file"] for s in shards):
            raise ValueError("a shard without its file, bytes or lengths")
        return StoreIdentity(**identity), shards
