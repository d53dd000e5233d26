"""Results for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from ..decoding import Generation
from ..numbers import number

COLOURS = ("green", "cyan", "yellow", "magenta")


def drafter_title(run: dict[str, Any]) -> str:
    """The drafter, and its mode where it goes without the target's features."""
    title: str = run["drafter"]
    return f"{title} independent" if run.get("mode") == "independent" else title


def labels_of(run: dict[str, Any]) -> tuple[str, str]:
    """What stands in front of every line: the prompt set, and the drafter with its draft length."""
    return f"{run['prompts']} ({run['prompt_count']})", f"{drafter_title(run)} K={run['draft_length']}"


def emitted_table(runs: Sequence[dict[str, Any]]) -> Table:
    """One line a drafter and prompt set; emitted length counts the target's own token of each round."""
    table = Table(title="tokens a round (emitted length)")
    for column in ("prompts", "drafter", "temp.", "emitted (95%)", "no loops", "macro", "loops"):
        table.add_column(column)
    for run in runs:
        emitted = run["emitted_length"]
        table.add_row(
            *labels_of(run),
            f"{run['temperature']:g}",
            f"{number(emitted['micro'])} ({number(emitted['low'])}-{number(emitted['high'])})",
            number(emitted["non_looping"]),
            number(emitted["macro"]),
            f"{run['loop_share']:.0%}",
        )
    return table


def speed_table(runs: Sequence[dict[str, Any]]) -> Table:
    """One line a drafter and prompt set; decoding alone, the prefill is left out."""
    table = Table(title="speed, plain and drafted on the same prompts in the same run")
    for column in ("prompts", "drafter"):
        table.add_column(column)
    for column in ("plain tok/s", "tok/s", "speed-up", "draft/verify/other", "same text"):
        table.add_column(column, justify="right")
    for run in runs:
        seconds, same = run["seconds"], run["identical_share"]
        total = sum(seconds.values()) or 1.0
        table.add_row(
            *labels_of(run),
            number(run["plain_tokens_per_second"], 0),
            number(run["tokens_per_second"], 0),
            f"{number(run['speedup'])}x",
            "/".join(f"{seconds[name] / total:.0%}" for name in ("draft", "verify", "other")),
            "-" if same is None else f"{same:.1%}",
        )
    return table


def acceptance_table(runs: Sequence[dict[str, Any]]) -> Table:
    """Acceptance by draft position: conditional on all before it / out of all rounds."""
    longest = max(run["draft_length"] for run in runs)
    table = Table(title="acceptance by position: given those before it / of all rounds")
    table.add_column("prompts")
    table.add_column("drafter")
    for k in range(1, longest + 1):
        table.add_column(str(k), justify="right")
    for run in runs:
        pairs = zip(run["acceptance"]["conditional"], run["acceptance"]["unconditional"], strict=True)
        table.add_row(*labels_of(run), *(f"{number(c)}\n{number(u)}" for c, u in pairs))
    return table


@dataclass(frozen=True)
class RoundPiece:
    """The text of one round: drafts that were kept, the target's own token, drafts that were thrown away."""

    accepted: str
    own: str
    rejected: str


def round_pieces(tokenizer: Any, generation: Generation) -> list[RoundPiece]:
    """An answer cut into rounds; the first piece is the token that the prefill gave."""
    found = [RoundPiece("", str(tokenizer.decode(generation.tokens[:1])), "")]
    start = 1
    for r in generation.rounds:
        own, end = start + min(r.accepted, r.emitted), start + r.emitted
        texts = (generation.tokens[start:own], generation.tokens[own:end], list(r.drafted[r.accepted :]))
        found.append(RoundPiece(*(str(tokenizer.decode(tokens)) for tokens in texts)))
        start = end
    return found


def rounds_text(tokenizer: Any, generation: Generation) -> Text:
    """The answer, one colour a round; the target's own token of each round is underlined."""
    first, *pieces = round_pieces(tokenizer, generation)
    text = Text(first.own, style="bold")
    for i, piece in enumerate(pieces):
        colour = COLOURS[i % len(COLOURS)]
        text.append(piece.accepted, style=colour)
        text.append(piece.own, style=f"{colour} underline")
    return text
