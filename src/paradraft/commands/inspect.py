"""`paradraft data inspect`: show one conversation token by token, and what is wrong with the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import UserError
from ..files import make_directory, write_text
from .options import BadShareOption, DateOption, MaxLengthOption, TargetOption, ThinkingOption, TrustOption
from .terminal import print_notes

if TYPE_CHECKING:
    from ..text.render import Rendered


def inspect(
    file: Annotated[str, typer.Argument(help="JSONL (.gz too), Parquet, owner/name[:subset][@split], or demo:train")],
    target: TargetOption = "demo",
    number: Annotated[
        int, typer.Option("--number", min=1, help="number of the conversation, bad ones not counted")
    ] = 1,
    html: Annotated[Path | None, typer.Option("--html", help="also write an HTML page")] = None,
    thinking: ThinkingOption = None,
    date: DateOption = None,
    max_length: MaxLengthOption = 3072,
    max_bad_share: BadShareOption = 0.01,
    trust_remote_code: TrustOption = False,
) -> None:
    """Show a conversation as the target reads it: what is learned, special tokens, ids.

    Example: `paradraft data inspect train.jsonl --target Qwen/Qwen3-4B --html conversation.html`
    """
    from ..config import DataSection
    from ..models.chat import load_chat
    from ..text.batches import cut, learnable
    from ..text.prepare import why_skipped
    from ..text.provenance import identify, provenance_notes
    from ..text.render import render_conversation
    from ..text.show import html_page, terminal_text, tokens_of
    from ..text.sources import check_bad_share, read_source

    console = Console(highlight=False)
    chat, context = load_chat(target, trust_remote_code, thinking, date)
    reading = read_source(file)
    notes = check_bad_share([reading], max_bad_share, [file])
    found = len(reading.conversations)
    if number > found:
        raise UserError(f"{file} holds {found} conversations; there is no number {number}")
    conversation = reading.conversations[number - 1]
    try:
        rendered = render_conversation(chat, conversation)
    except UserError as error:
        raise UserError(f"{conversation.place}: {error}") from None
    reason = why_skipped(DataSection(), conversation, rendered)
    if reason is not None:
        notes.append(f"training leaves this conversation out: {reason}")
    examples = [cut(example, min(max_length, context)) for example in rendered]
    notes += provenance_notes(file, identify(target), chat.template_hash, chat.thinking)
    switch = {True: "on", False: "off", None: "the template's default"}[thinking]
    stops = ", ".join(f"{chat.decode([token])} ({token})" for token in sorted(chat.stop_tokens))
    facts = [
        ("record", f"{conversation.place}, number {number} of {found}"),
        ("tokens", counted(rendered, examples)),
        ("examples", str(len(examples))),
        ("chat template", f"{chat.template_hash}, thinking: {switch}"),
        ("stop tokens", stops or "none"),
    ]
    for name, value in facts:
        console.print(f"[bold]{name}[/]: {escape(value)}")
    print_notes(console, notes)
    shown = [tokens_of(chat.tokenizer, example) for example in examples]
    for tokens in shown:
        console.print()
        console.print(terminal_text(tokens))
    console.print("\n[on dark_green]learned[/] by the drafter, [bold magenta]special[/] token, [dim]token id[/]")
    if html is not None:
        make_directory(html.parent)
        write_text(html, html_page(f"{conversation.place} as {target} reads it", facts, shown))
        console.print(f"wrote {escape(str(html))}")
    if not any(learnable(example) for example in examples):
        raise UserError(
            f"{conversation.place}: the loss mask is zero everywhere, because there is no answer within the first "
            f"{max_length} tokens; check the record, --max-length and the chat template"
        )


def counted(rendered: list[Rendered], examples: list[Rendered]) -> str:
    """The numbers of all tokens, of those learned, and of those cut off, as a sentence."""
    tokens = sum(len(example.input_ids) for example in examples)
    learned = sum(example.learned for example in examples)
    cut_off = sum(len(example.input_ids) for example in rendered) - tokens
    return f"{tokens}, {learned} of them learned" + (f", {cut_off} cut off" if cut_off else "")
