"""Writing a feature store: what it will cost, measured on the target, then shard by shard, the manifest last."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import UserError
from ..files import make_directory
from ..models import Target
from ..numbers import size
from .batches import collate
from .feature_store import StoreIdentity, plan_shards, shard_complete, shard_name, write_manifest, write_shard
from .render import Rendered

SAMPLE_SECONDS = 3.0  # how long the target's speed is measured
SAMPLE_BATCHES = 8
RESERVE = 1.02  # headers and the manifest
SHARD_BYTES = 1 << 30


@dataclass(frozen=True)
class Estimate:
    """tokens_per_second: of the target on a few batches of these very texts, here and now."""

    examples: int
    tokens: int
    bytes_per_token: int
    tokens_per_second: float
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        return round(self.tokens * self.bytes_per_token * RESERVE)

    def check_disk(self, out: Path, written: int = 0) -> None:
        """UserError where the disk is too small. written: bytes that an interrupted run has left here and that stay."""
        needed = self.total_bytes - written
        if needed > self.free_bytes:
            raise UserError(
                f"{out} would need {size(needed)}, its disk has {size(self.free_bytes)} free: train "
                "online (data.features=null, the default), store int8, fewer --layers or a --limit, or choose another "
                "disk"
            )


def estimate_store(
    target: Target, examples: Sequence[Rendered], wanted: StoreIdentity, out: Path, batch_size: int
) -> Estimate:
    """Run the target on a few batches spread over the texts; nothing is written."""
    starts = range(0, len(examples), max(1, len(examples) // SAMPLE_BATCHES))
    features_of(target, examples[:1], wanted.layers)  # first calls allocate and compile
    tokens, started = 0, time.perf_counter()
    for start in starts:
        part = examples[start : start + batch_size]
        features_of(target, part, wanted.layers)
        tokens += sum(len(example.input_ids) for example in part)
        if time.perf_counter() - started > SAMPLE_SECONDS:
            break
    return Estimate(
        examples=len(examples),
        tokens=sum(len(example.input_ids) for example in examples),
        bytes_per_token=wanted.bytes_per_token,
        tokens_per_second=tokens / (time.perf_counter() - started),
        free_bytes=shutil.disk_usage(nearest_directory(out)).free,
    )


def nearest_directory(path: Path) -> Path:
    """The directory itself, or the nearest above it that exists."""
    return next(p for p in (path.resolve(), *path.resolve().parents) if p.is_dir())


def features_of(target: Target, examples: Sequence[Rendered], layers: Sequence[int]) -> list[torch.Tensor]:
    """[tokens, layers * H] of each example, on the CPU."""
    batch = collate(examples).to(target.device)
    features = target.features(batch.input_ids, batch.document_ids, layers).cpu()
    return [features[row, : len(example.input_ids)] for row, example in enumerate(examples)]


class StoreWriter:
    """Writes a store to `out`. done: numbers of the shards that an interrupted run has written already."""

    def __init__(self, out: Path, wanted: StoreIdentity, examples: Sequence[Rendered]) -> None:
        self.out, self.wanted, self.examples = out, wanted, examples
        self.lengths = [len(example.input_ids) for example in examples]
        self.shards = plan_shards(self.lengths, wanted.bytes_per_token, SHARD_BYTES)
        self.tokens = [sum(self.lengths[i] for i in shard) for shard in self.shards]
        self.done = {n for n in range(len(self.shards)) if shard_complete(out, n, wanted, self.tokens[n])}

    def prepare(self, estimate: Estimate) -> None:
        """Make the directory, if its disk holds what is still to be written."""
        estimate.check_disk(self.out, sum((self.out / shard_name(n)).stat().st_size for n in self.done))
        make_directory(self.out)

    def write(self, target: Target, batch_size: int, advance: Callable[[int], None] = lambda tokens: None) -> None:
        """Write every missing shard and the manifest; `advance` is called with the tokens of each batch."""
        for number in sorted(set(range(len(self.shards))) - self.done):
            features: dict[int, torch.Tensor] = {}
            by_length = sorted(self.shards[number], key=lambda i: self.lengths[i])  # texts of a batch are padded alike
            for start in range(0, len(by_length), batch_size):
                numbers = by_length[start : start + batch_size]
                found = features_of(target, [self.examples[i] for i in numbers], self.wanted.layers)
                features.update(zip(numbers, found, strict=True))
                advance(sum(self.lengths[i] for i in numbers))
            write_shard(self.out, number, self.wanted, torch.cat([features[i] for i in self.shards[number]]))
        write_manifest(self.out, self.wanted, self.lengths, self.shards)
