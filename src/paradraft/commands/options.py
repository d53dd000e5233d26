"""Options that several commands share. Even --help imports this file, so it imports nothing slow."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..decoding import DraftLength

SHIPPED = ("demo", "smollm2")  # targets with drafters and prompts of their own

TargetOption = Annotated[
    str, typer.Option("--target", help="directory, GGUF file, Hugging Face id, `demo` or `smollm2`")
]
DraftersOption = Annotated[
    list[str] | None,
    typer.Option("--drafter", help="directory, Hugging Face id or a shipped name; repeatable"),
]
DrafterOption = Annotated[
    str | None,
    typer.Option("--drafter", help="directory, Hugging Face id or a shipped name; none: plain decoding"),
]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with a checkpoint")]
ThinkingOption = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="the chat template's thinking switch; default: the template's own"),
]
DateOption = Annotated[
    datetime.date | None,
    typer.Option(
        "--date",
        parser=datetime.date.fromisoformat,
        metavar="YYYY-MM-DD",
        help="date that the chat template writes; default: today's",
    ),
]

PromptsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts",
        help="files, demo:math, demo:code, demo:chat, smollm2:math and so on, gsm8k, math500, humaneval, mbpp, "
        "mt-bench, livecodebench; repeatable; default: the target's shipped sets",
    ),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="read only this many records of each file")]
BadShareOption = Annotated[
    float, typer.Option("--max-bad-share", min=0, max=1, help="share of bad records above which the command stops")
]
MaxLengthOption = Annotated[int, typer.Option("--max-length", min=8, help="tokens of a conversation, at most")]

DraftLengthOption = Annotated[
    str | None,
    typer.Option(
        "--draft-length",
        metavar="K|auto",
        help="drafted tokens per round; auto: as many as pay, possibly none; default: as trained",
    ),
]


def paying_draft_length(as_trained: str) -> Any:
    """--draft-length of a command that drafts what pays; `as_trained`: where its default is another one."""
    means = "drafted tokens per round; auto: as many as pay, possibly none. Default: auto, but as trained"
    return typer.Option("--draft-length", metavar="K|auto", help=f"{means} {as_trained}")


AcceptanceOption = Annotated[
    str | None,
    typer.Option("--acceptance", help="chain or block, with --tree tree_residual or tree; differ above temperature 0"),
]
TreeOption = Annotated[
    int | None,
    typer.Option(
        "--tree",
        min=0,
        help="nodes of the draft tree in each round; with --draft-length auto: at most so many; 0: chains only; "
        "default: a chain, but with auto at temperature 0 a tree if the drafter drafts in one pass and trees cost "
        "little here",
    ),
]
ModeOption = Annotated[
    str | None, typer.Option("--mode", help="draft with the target's features (dependent) or without (independent)")
]
ModesOption = Annotated[
    list[str] | None,
    typer.Option("--mode", help="draft with the target's features (dependent) or without (independent); repeatable"),
]

TemperatureOption = Annotated[float, typer.Option("--temperature", help="0: always the most likely token")]
TopKOption = Annotated[int, typer.Option("--top-k", help="0: off")]
TopPOption = Annotated[float, typer.Option("--top-p", help="1: off")]
SeedOption = Annotated[int, typer.Option("--seed", help="seed of all random numbers")]
MaxNewTokensOption = Annotated[int, typer.Option("--max-new-tokens", min=1, help="tokens of an answer, at most")]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="prompts that are answered together")]


def draft_length_of(text: str | None) -> DraftLength | None:
    """What --draft-length says."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise UserError(f"--draft-length must be a number of tokens or auto, not {text!r}")
    return int(text)


def set_threads(threads: int | None) -> None:
    """Give PyTorch this many threads; None leaves its own choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def drafter_of(target: str) -> str:
    """The shipped drafter that is used where none is named; UserError for a target that has none or is not there."""
    if target not in SHIPPED:
        from ..models.names import check_found

        check_found(target, "target")
        raise UserError(f"no drafter for {target} ships with paradraft; name one with --drafter")
    return f"{target}:dflash-dpace"


def prompts_of(target: str) -> list[str]:
    """The shipped prompt sets that are asked where none is named; those of `smollm2` suit any chat model."""
    return [f"{target if target in SHIPPED else 'smollm2'}:{name}" for name in ("math", "code", "chat")]
