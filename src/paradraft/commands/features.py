"""`data features`: the target's features on disk, after saying what they will cost; `--estimate` stops there."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..config import DataSection
from ..drafters.dflash import default_feature_layers
from ..errors import UserError
from ..files import make_directory
from ..models import Target
from ..text.batches import collate
from ..text.feature_store import (
    MANIFEST,
    FeatureStore,
    StoreIdentity,
    plan_shards,
    shard_complete,
    shard_name,
    store_identity,
    write_manifest,
    write_shard,
)
from ..text.prepare import prepare_examples
from ..text.provenance import identify
from ..text.render import Rendered

SAMPLE_SECONDS = 3.0  # how long the target's speed is measured
SAMPLE_BATCHES = 8
RESERVE = 1.02  # headers and the manifest


@dataclass(frozen=True)
class FeaturesRequest:
    files: Sequence[str]
    target: str
    out: Path
    estimate: bool = False
    layers: tuple[int, ...] | None = None
    storage: str = "bfloat16"
    max_length: int = 3072
    limit: int | None = None
    thinking: bool | None = None
    date: datetime.date | None = None
    batch_size: int = 4
    max_bad_share: float = 0.01
    shard_bytes: int = 1 << 30
    dtype: str = "auto"
    trust_remote_code: bool = False


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


def run_features(request: FeaturesRequest) -> None:
    """Estimate, check the disk, write what an earlier run has not, the manifest last."""
    console = Console()
    target = Target.load(request.target, request.dtype, None, request.trust_remote_code, request.thinking, request.date)
    layers = request.layers or default_feature_layers(5, len(target.layers))
    target.check_layers(layers)
    section = DataSection(
        train=tuple(request.files),
        max_length=request.max_length,
        limit=request.limit,
        max_bad_share=request.max_bad_share,
        thinking=request.thinking,
        date=request.date,
    )
    identity = identify(request.target)
    data = prepare_examples(section, target, identity, 0)
    for note in data.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    wanted = store_identity(section, target, identity, data, layers, request.storage)
    if not request.estimate and (request.out / MANIFEST).is_file():
        FeatureStore(request.out).check(wanted, storage=True)
        console.print(f"nothing to do: {request.out} holds these features")
        return
    estimate = measure(request, target, data.examples, wanted)
    console.print(estimate_table(estimate, wanted))
    console.print(
        "Online training, the default, needs none of this disk: it runs the target in every step. Features on disk pay "
        "where the same texts are trained on many times."
    )
    if request.estimate:
        return
    write_features(request, target, data.examples, wanted, estimate, console)
    console.print(f"wrote {request.out}; train with data.features={request.out}")


def measure(request: FeaturesRequest, target: Target, examples: Sequence[Rendered], wanted: StoreIdentity) -> Estimate:
    """Run the target on a few batches spread over the texts; nothing is written."""
    starts = range(0, len(examples), max(1, len(examples) // SAMPLE_BATCHES))
    features_of(target, examples[:1], wanted.layers)  # first calls allocate and compile
    tokens, started = 0, time.perf_counter()
    for start in starts:
        part = examples[start : start + request.batch_size]
        features_of(target, part, wanted.layers)
        tokens += sum(len(example.input_ids) for example in part)
        if time.perf_counter() - started > SAMPLE_SECONDS:
            break
    return Estimate(
        examples=len(examples),
        tokens=sum(len(example.input_ids) for example in examples),
        bytes_per_token=wanted.bytes_per_token,
        tokens_per_second=tokens / (time.perf_counter() - started),
        free_bytes=shutil.disk_usage(nearest_directory(request.out)).free,
    )


def nearest_directory(path: Path) -> Path:
    """The directory itself, or the nearest above it that exists."""
    return next(p for p in (path.resolve(), *path.resolve().parents) if p.is_dir())


def features_of(target: Target, examples: Sequence[Rendered], layers: Sequence[int]) -> list[torch.Tensor]:
    """[tokens, layers * H] of each example, on the CPU."""
    batch = collate(examples).to(target.device)
    features = target.features(batch.input_ids, batch.document_ids, layers).cpu()
    return [features[row, : len(example.input_ids)] for row, example in enumerate(examples)]


def estimate_table(estimate: Estimate, wanted: StoreIdentity) -> Table:
    table = Table(show_header=False, title=f"features of layers {', '.join(map(str, wanted.layers))} in {wanted.dtype}")
    seconds = estimate.tokens / estimate.tokens_per_second
    for name, value in (
        ("texts", f"{estimate.examples:,}"),
        ("tokens", f"{estimate.tokens:,}"),
        ("bytes per token", f"{estimate.bytes_per_token:,}"),
        ("total", size(estimate.total_bytes)),
        ("free on this disk", size(estimate.free_bytes)),
        ("time", f"about {duration(seconds)} at {estimate.tokens_per_second:,.0f} tokens/s"),
    ):
        table.add_row(name, value)
    return table


def check_disk(estimate: Estimate, out: Path, written: int = 0) -> None:
    """written: bytes that an interrupted run has left here and that stay."""
    needed = estimate.total_bytes - written
    if needed > estimate.free_bytes:
        raise UserError(
            f"{out} would need {size(needed)}, its disk has {size(estimate.free_bytes)} free: train "
            "online (data.features=null, the default), store int8, fewer --layers or a --limit, or choose another disk"
        )


def write_features(
    request: FeaturesRequest,
    target: Target,
    examples: Sequence[Rendered],
    wanted: StoreIdentity,
    estimate: Estimate,
    console: Console,
) -> None:
    lengths = [len(example.input_ids) for example in examples]
    shards = plan_shards(lengths, wanted.bytes_per_token, request.shard_bytes)
    tokens = [sum(lengths[i] for i in shard) for shard in shards]
    done = {n for n in range(len(shards)) if shard_complete(request.out, n, wanted, tokens[n])}
    check_disk(estimate, request.out, sum((request.out / shard_name(n)).stat().st_size for n in done))
    make_directory(request.out)
    if done:
        console.print(f"going on: {len(done)} of {len(shards)} shards are written already")
    with writing(console, sum(tokens), sum(tokens[n] for n in done)) as advance:
        for number in sorted(set(range(len(shards))) - done):
            features: list[torch.Tensor] = []
            for start in range(0, len(shards[number]), request.batch_size):
                part = [examples[i] for i in shards[number][start : start + request.batch_size]]
                features += features_of(target, part, wanted.layers)
                advance(sum(len(example.input_ids) for example in part))
            write_shard(request.out, number, wanted, torch.cat(features))
    write_manifest(request.out, wanted, lengths, shards)


@contextmanager
def writing(console: Console, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar over tokens with time left; yields the function that advances it."""
    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("writing", total=total, completed=done)
        yield lambda tokens: progress.advance(task, tokens)


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
