"""Options that several commands share. This file is read whenever the help is shown: nothing heavy is imported here."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

DEMO_PROMPTS = ["demo:math", "demo:code", "demo:chat"]
DEMO_DRAFTER = "demo:dflash-dpace"

TargetOption = Annotated[
    str, typer.Option("--target", help="directory, GGUF file, Hugging Face id, `demo` or `smollm2`")
]
DraftersOption = Annotated[list[str] | None, typer.Option("--drafter", help="directory or demo:NAME; repeatable")]
DrafterOption = Annotated[str | None, typer.Option("--drafter", help="directory or demo:NAME; none: plain")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with a checkpoint")]
ThinkingOption = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", help="the template's switch; default: as the template has it")
]
DateOption = Annotated[
    datetime.date | None,
    typer.Option(
        "--date", parser=datetime.date.fromisoformat, metavar="YYYY-MM-DD", help="the template writes; default: today's"
    ),
]

PromptsOption = Annotated[
    list[str],
    typer.Option(
        "--prompts",
        help="demo:math, demo:code, demo:chat, files, gsm8k, math500, humaneval, mbpp, mt-bench, livecodebench",
    ),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="only the first so many of each file")]
BadShareOption = Annotated[float, typer.Option("--max-bad-share", min=0, max=1, help="of records that may be left out")]
MaxLengthOption = Annotated[int, typer.Option("--max-length", min=8, help="as data.max_length")]

DraftLengthOption = Annotated[int | None, typer.Option("--draft-length", help="drafts a round; default: as trained")]
ModeOption = Annotated[str | None, typer.Option("--mode", help="dependent or independent of the target's features")]
ModesOption = Annotated[
    list[str] | None, typer.Option("--mode", help="dependent or independent of the target's features; repeatable")
]

TemperatureOption = Annotated[float, typer.Option("--temperature", help="0: the likeliest token")]
TopKOption = Annotated[int, typer.Option("--top-k", help="0: off")]
TopPOption = Annotated[float, typer.Option("--top-p", help="1: off")]
SeedOption = Annotated[int, typer.Option("--seed", help="of everything random")]
MaxNewTokensOption = Annotated[int, typer.Option("--max-new-tokens", min=1, help="tokens of an answer, at most")]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="texts that are run together")]


def set_threads(threads: int | None) -> None:
    """What --threads asks for; None leaves PyTorch's own choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
