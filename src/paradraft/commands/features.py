"""`paradraft data features`: print what features on disk cost, then write them; --estimate only prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..numbers import duration, size
from .options import (
    BadShareOption,
    DateOption,
    DtypeOption,
    LimitOption,
    MaxLengthOption,
    TargetOption,
    ThinkingOption,
    ThreadsOption,
    TrustOption,
    set_threads,
)
from .terminal import print_notes, print_origin, progress_bar

if TYPE_CHECKING:
    from ..text.feature_store import StoreIdentity
    from ..text.features import Estimate

ADVICE = (
    "Online training, the default, needs none of this disk: it runs the target in every step. Features on disk pay off "
    "if you train on the same texts many times."
)


def features(
    files: Annotated[list[str], typer.Argument(help="the files that data.train names, in the same order")],
    out: Annotated[Path, typer.Option("--out", help="directory of the features")],
    target: TargetOption = "demo",
    estimate: Annotated[bool, typer.Option("--estimate", help="print the cost and stop")] = False,
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            help="0-based, such as 1,9,17; their number: behind the final norm; auto: as for a drafter of 5 layers",
        ),
    ] = "auto",
    storage: Annotated[
        str, typer.Option("--storage", help="bfloat16, or int8 with one scale for each token and layer")
    ] = "bfloat16",
    max_length: MaxLengthOption = 3072,
    limit: LimitOption = None,
    thinking: ThinkingOption = None,
    date: DateOption = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="texts that the target reads in one batch")
    ] = 4,
    max_bad_share: BadShareOption = 0.01,
    keep_cut: Annotated[bool, typer.Option("--keep-cut", help="keep conversations whose last answer was cut")] = False,
    looping: Annotated[
        str, typer.Option("--looping", help="as data.looping of the training: skip, trim or keep")
    ] = "skip",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Print what the target's features cost on disk, then write them for training with `data.features`.

    Example: `paradraft data features train.jsonl --target Qwen/Qwen3-4B --out features --estimate`
    """
    from ..config import DataSection, Looping
    from ..drafters.dflash_config import default_feature_layers
    from ..text.feature_store import FORMATS, MANIFEST, FeatureStore, store_identity
    from ..text.features import StoreWriter, estimate_store
    from ..text.prepare import prepare_examples
    from ..text.provenance import identify
    from .pair import load_pair

    if storage not in FORMATS:
        raise UserError(f"--storage must be one of {', '.join(FORMATS)}, not {storage}")
    if looping not in get_args(Looping):
        raise UserError(f"--looping must be one of {', '.join(get_args(Looping))}, not {looping}")
    asked = parse_layers(layers)
    set_threads(threads)
    console = Console()
    loaded, _ = load_pair(target, [], dtype, trust_remote_code, thinking, date)
    print_origin(console, loaded)
    chosen = asked or default_feature_layers(5, len(loaded.layers))
    loaded.check_layers(chosen)
    section = DataSection(
        train=tuple(files),
        max_length=max_length,
        limit=limit,
        max_bad_share=max_bad_share,
        skip_cut=not keep_cut,
        looping=cast(Looping, looping),
        thinking=thinking,
        date=date,
    )
    identity = identify(target)
    data = prepare_examples(section, loaded, identity, 0)
    print_notes(console, data.notes)
    wanted = store_identity(section, loaded, identity, data, chosen, storage)
    if not estimate and (out / MANIFEST).is_file():
        FeatureStore(out).check(wanted, storage=True)
        console.print(f"nothing to do: {out} holds these features")
        return
    cost = estimate_store(loaded, data.examples, wanted, out, batch_size)
    console.print(estimate_table(cost, wanted))
    console.print(ADVICE)
    if estimate:
        return
    writer = StoreWriter(out, wanted, data.examples)
    writer.prepare(cost)
    if writer.done:
        console.print(f"continuing: {len(writer.done)} of {len(writer.shards)} shards are written already")
    with progress_bar(console, "writing", cost.tokens, sum(writer.tokens[n] for n in writer.done)) as advance:
        writer.write(loaded, batch_size, advance)
    console.print(f"wrote {out}; train with data.features={out}")


def parse_layers(text: str) -> tuple[int, ...] | None:
    """Layer ids from text such as 1,9,17, sorted and without repeats; None for `auto`."""
    if text == "auto":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--layers must be auto or ids with commas between them, such as 1,9,17, not {text}")
    return tuple(sorted({int(part) for part in parts}))


def estimate_table(cost: Estimate, wanted: StoreIdentity) -> Table:
    table = Table(show_header=False, title=f"features of layers {', '.join(map(str, wanted.layers))} in {wanted.dtype}")
    seconds = cost.tokens / cost.tokens_per_second
    for name, value in (
        ("texts", f"{cost.examples:,}"),
        ("tokens", f"{cost.tokens:,}"),
        ("bytes per token", f"{cost.bytes_per_token:,}"),
        ("total", size(cost.total_bytes)),
        ("free on this disk", size(cost.free_bytes)),
        ("time", f"about {duration(seconds)} at {cost.tokens_per_second:,.0f} tokens/s"),
    ):
        table.add_row(name, value)
    return table
