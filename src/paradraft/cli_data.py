"""`paradraft data ...`: one thin command each; heavy imports stay inside the commands."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from .errors import UserError

app = typer.Typer(
    help="Look at training data, have the target answer prompts, write features to disk.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

TargetOption = Annotated[str, typer.Option("--target", help="directory, Hugging Face id, or `demo`")]
ThinkingOption = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", help="the template's switch; default: as the template has it")
]
DateOption = Annotated[
    datetime.date | None,
    typer.Option(
        "--date", parser=datetime.date.fromisoformat, metavar="YYYY-MM-DD", help="the template writes; default: today's"
    ),
]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with a checkpoint")]
BadShareOption = Annotated[float, typer.Option("--max-bad-share", min=0, max=1, help="of records that may be left out")]


@app.command()
def regenerate(
    prompts: Annotated[
        list[str], typer.Option("--prompts", help="JSONL, Parquet, owner/name or demo:train; repeatable")
    ],
    out: Annotated[Path, typer.Option("--out", help="JSONL file of the answers; .gz packs it")],
    target: TargetOption = "demo",
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="an OpenAI-compatible server of the target")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="what the server calls it; default: its only one")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option("--key-variable", help="environment variable that holds the server's key")
    ] = None,
    drafter: Annotated[str | None, typer.Option("--drafter", help="directory or demo:NAME; none: plain")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first so many of each file")] = None,
    temperature: Annotated[float, typer.Option("--temperature")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="0: off")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="1: off")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 512,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="of the embedded engine")] = 16,
    concurrency: Annotated[int, typer.Option("--concurrency", min=2, help="requests under way at the server")] = 32,
    thinking: ThinkingOption = None,
    date: DateOption = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    max_bad_share: BadShareOption = 0.01,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """The target answers prompts. After a kill the same command goes on; nothing is lost or answered twice.

    Examples: `paradraft data regenerate --prompts prompts.jsonl --out answers.jsonl --drafter demo:dflash-dpace`,
    `paradraft data regenerate --target Qwen/Qwen3-4B --prompts p.jsonl --out a.jsonl --endpoint http://localhost:8000`
    """
    from .commands.regenerate import RegenerateRequest, run_regenerate
    from .decoding import Sampling

    set_threads(threads)
    run_regenerate(
        RegenerateRequest(
            target=target,
            prompts=prompts,
            out=out,
            sampling=Sampling(temperature, top_k, top_p),
            max_new_tokens=max_new_tokens,
            endpoint=endpoint,
            model=model,
            key_variable=key_variable,
            drafter=drafter,
            limit=limit,
            batch_size=batch_size,
            workers=concurrency,
            thinking=thinking,
            date=date,
            seed=seed,
            max_bad_share=max_bad_share,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
    )


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="JSONL (.gz too), Parquet, owner/name[:subset][@split], or demo:train")],
    target: TargetOption = "demo",
    number: Annotated[int, typer.Option("--number", min=1, help="which conversation")] = 1,
    html: Annotated[Path | None, typer.Option("--html", help="write it as a page too")] = None,
    thinking: ThinkingOption = None,
    date: DateOption = None,
    max_length: Annotated[int, typer.Option("--max-length", min=8, help="as data.max_length")] = 3072,
    max_bad_share: BadShareOption = 0.01,
    trust_remote_code: TrustOption = False,
) -> None:
    """Show a conversation as the target reads it: what is learned, special tokens, ids.

    Example: `paradraft data inspect train.jsonl --target Qwen/Qwen3-4B --html conversation.html`
    """
    from .commands.inspect import InspectRequest, run_inspect

    run_inspect(
        InspectRequest(file, target, number, thinking, date, max_length, max_bad_share, html, trust_remote_code)
    )


@app.command()
def features(
    files: Annotated[list[str], typer.Argument(help="what data.train will name, in the same order")],
    out: Annotated[Path, typer.Option("--out", help="directory of the store")],
    target: TargetOption = "demo",
    estimate: Annotated[bool, typer.Option("--estimate", help="say what it would cost, write nothing")] = False,
    layers: Annotated[str, typer.Option("--layers", help="0-based, as 1,9,17; auto: those of a drafter of 5")] = "auto",
    storage: Annotated[str, typer.Option("--storage", help="bfloat16, or int8 with a scale a token and layer")] = (
        "bfloat16"
    ),
    max_length: Annotated[int, typer.Option("--max-length", min=8, help="as data.max_length")] = 3072,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first so many of each file")] = None,
    thinking: ThinkingOption = None,
    date: DateOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 4,
    max_bad_share: BadShareOption = 0.01,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write the target's features to disk, for training with `data.features`; says first what it costs.

    Example: `paradraft data features train.jsonl --target Qwen/Qwen3-4B --out features --estimate`
    """
    from .commands.features import FeaturesRequest, run_features
    from .text.feature_store import FORMATS

    if storage not in FORMATS:
        raise UserError(f"--storage must be one of {', '.join(FORMATS)}, not {storage}")
    set_threads(threads)
    run_features(
        FeaturesRequest(
            files=files,
            target=target,
            out=out,
            estimate=estimate,
            layers=parse_layers(layers),
            storage=storage,
            max_length=max_length,
            limit=limit,
            thinking=thinking,
            date=date,
            batch_size=batch_size,
            max_bad_share=max_bad_share,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
    )


def parse_layers(text: str) -> tuple[int, ...] | None:
    """`auto` is None; else ids with commas between them, ascending and without repeats."""
    if text == "auto":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--layers must be auto or ids with commas between them, such as 1,9,17, not {text}")
    return tuple(sorted({int(part) for part in parts}))


def set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
