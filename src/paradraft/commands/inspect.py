"""`data inspect`: one conversation with mask, special tokens and token ids; what is wrong with the file is said."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..errors import UserError
from ..files import make_directory, write_text
from ..models.chat import ChatText, load_chat
from ..text.batches import cut, learnable
from ..text.provenance import identify, provenance_notes
from ..text.render import Rendered, render_conversation
from ..text.show import html_page, terminal_text, tokens_of
from ..text.sources import check_bad_share, read_source


@dataclass(frozen=True)
class InspectRequest:
    """number: which conversation, 1-based, bad records not counted."""

    file: str
    target: str
    number: int = 1
    thinking: bool | None = None
    date: datetime.date | None = None
    max_length: int = 3072
    max_bad_share: float = 0.01
    html: Path | None = None
    trust_remote_code: bool = False


def run_inspect(request: InspectRequest) -> None:
    """Show it, write the page if asked; a mask without anything to learn is an error, after it was shown."""
    console = Console(highlight=False)
    chat, context = load_chat(request.target, request.trust_remote_code, request.thinking, request.date)
    reading = read_source(request.file)
    notes = check_bad_share([reading], request.max_bad_share, [request.file])
    found = len(reading.conversations)
    if request.number > found:
        raise UserError(f"{request.file} holds {found} conversations; there is no number {request.number}")
    conversation = reading.conversations[request.number - 1]
    try:
        rendered = render_conversation(chat, conversation)
    except UserError as error:
        raise UserError(f"{conversation.place}: {error}") from None
    examples = [cut(example, min(request.max_length, context)) for example in rendered]
    facts = facts_of(request, chat, found, rendered, examples, conversation.place)
    notes += provenance_notes(request.file, identify(request.target), chat.template_hash, chat.thinking)
    for name, value in facts:
        console.print(f"[bold]{name}[/]: {escape(value)}")
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    shown = [tokens_of(chat.tokenizer, example) for example in examples]
    for tokens in shown:
        console.print()
        console.print(terminal_text(tokens))
    console.print("\n[on dark_green]learned[/] by the drafter, [bold magenta]special[/] token, [dim]token id[/]")
    if request.html is not None:
        make_directory(request.html.parent)
        write_text(request.html, html_page(f"{conversation.place} as {request.target} reads it", facts, shown))
        console.print(f"wrote {escape(str(request.html))}")
    if not any(learnable(example) for example in examples):
        raise UserError(
            f"{conversation.place}: the loss mask is zero everywhere, the target wrote nothing of it within "
            f"{request.max_length} tokens; check the record, --max-length and the chat template"
        )


def facts_of(
    request: InspectRequest,
    chat: ChatText,
    conversations: int,
    rendered: list[Rendered],
    examples: list[Rendered],
    place: str,
) -> list[tuple[str, str]]:
    tokens = sum(len(example.input_ids) for example in examples)
    learned = sum(sum(example.loss_mask) for example in examples)
    cut_off = sum(len(example.input_ids) for example in rendered) - tokens
    stops = ", ".join(f"{chat.decode([token])} ({token})" for token in sorted(chat.stop_tokens))
    switch = {True: "on", False: "off", None: "the template's default"}[request.thinking]
    return [
        ("record", f"{place}, number {request.number} of {conversations}"),
        ("tokens", f"{tokens}, {learned} of them learned" + (f", {cut_off} cut off" if cut_off else "")),
        ("examples", str(len(examples))),
        ("chat template", f"{chat.template_hash}, thinking: {switch}"),
        ("stop tokens", stops or "none"),
    ]
