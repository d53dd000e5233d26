"""Results as tables: the same cells for the terminal, the report and Markdown; and answers round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table
from rich.text import Text

from ..decoding import Generation
from ..numbers import number
from ..text.detokenize import Detokenizer
from .results import RunResult, title_of

COLOURS = ("green", "cyan", "yellow", "magenta")


EMITTED = ("prompts", "drafter", "temp.", "emitted length (95%)", "no loops", "macro", "loops")
USUAL_RULES = ("chain", "tree_residual")  # of chains and of trees: what no table needs to name
SPEED = ("prompts", "drafter", "plain tok/s", "tok/s", "speed-up", "draft/verify/other", "same text")


def cells(run: RunResult) -> dict[str, str]:
    """What tables can show of a run, by column; the terminal, the report and Markdown each show some columns."""
    emitted, seconds, same = run.emitted_length, run.seconds, run.identical_share
    total = seconds.draft + seconds.verify + seconds.other or 1.0
    gained = run.speedup / emitted.micro if run.speedup is not None and emitted.micro else None
    return {
        "prompts": f"{run.prompts} ({run.prompt_count})",
        "drafter": f"{run.title} {way_of(run)}",
        "temp.": f"{run.temperature:g}",
        "emitted length (95%)": f"{number(emitted.micro)} ({number(emitted.low)} to {number(emitted.high)})",
        "no loops": number(emitted.non_looping),
        "macro": number(emitted.macro),
        "loops": f"{run.loop_share:.0%}",
        "plain tok/s": number(run.plain_tokens_per_second, 1),
        "tok/s": number(run.tokens_per_second, 1),
        "speed-up": number(run.speedup),
        "speed-up / emitted": number(gained),
        "draft/verify/other": "/".join(
            f"{part / total:.0%}" for part in (seconds.draft, seconds.verify, seconds.other)
        ),
        "same text": "-" if same is None else f"{same:.1%}",
        "against the first (95%)": gain_of(run),
    }


def gain_of(run: RunResult) -> str:
    """Emitted length against that of the first drafter on the same prompts, "-" for the first itself."""
    against = run.against_first
    if against is None:
        return "-"
    return f"{against.emitted_length_difference:+.2f} ({against.low:+.2f} to {against.high:+.2f})"


def way_of(run: RunResult) -> str:
    """Such as K=7; K=auto (3.1) where rounds drafted 3.1 tokens on average; with a rule that is not the usual one."""
    length = f"{run.length_label} ({number(run.mean_draft_length, 1)})" if run.adaptive else run.length_label
    return length if run.acceptance_rule in USUAL_RULES else f"{length} {run.acceptance_rule}"


def rows_of(runs: Sequence[RunResult], columns: Sequence[str]) -> list[list[str]]:
    """One line a run, in the order of `columns`."""
    return [[shown[column] for column in columns] for shown in map(cells, runs)]


def difference(run: RunResult) -> str | None:
    """A sentence that compares a drafter with the first one on the same prompts; None for the first."""
    against = run.against_first
    if against is None:
        return None
    return (
        f"{run.title} against {title_of(against.drafter, against.mode)} on {run.prompts}, temperature "
        f"{run.temperature:g}: emitted length {against.emitted_length_difference:+.2f} (95% interval "
        f"{against.low:+.2f} to {against.high:+.2f})."
    )


def terminal_table(title: str, runs: Sequence[RunResult], columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in ("prompts", "drafter") else "right", overflow="fold")
    for row in rows_of(runs, columns):
        table.add_row(*row)
    return table


def emitted_table(runs: Sequence[RunResult]) -> Table:
    """Emitted length, in which the target's own token of each round counts."""
    return terminal_table("tokens a round (emitted length)", runs, EMITTED)


def speed_table(runs: Sequence[RunResult]) -> Table:
    """Speed of decoding, without the prefill."""
    return terminal_table("speed, plain and drafted on the same prompts in the same run", runs, SPEED)


def acceptance_table(runs: Sequence[RunResult]) -> Table:
    """Acceptance by draft position: conditional on all before it / out of all rounds that drafted that far."""
    longest = max(run.draft_length for run in runs)
    table = Table(title="acceptance by position: given those before it / of all rounds that drafted that far")
    for column in ("prompts", "drafter"):
        table.add_column(column)
    for k in range(1, longest + 1):
        table.add_column(str(k), justify="right")
    for run, labels in zip(runs, rows_of(runs, ("prompts", "drafter")), strict=True):
        pairs = zip(run.acceptance.conditional, run.acceptance.unconditional, strict=True)
        table.add_row(*labels, *(f"{number(c)}\n{number(u)}" for c, u in pairs))
    return table


def markdown_table(runs: Sequence[RunResult], columns: Sequence[str]) -> str:
    return markdown(columns, rows_of(runs, columns))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, without the last newline."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


@dataclass(frozen=True)
class RoundPiece:
    """The text of one round: drafts that were kept, the target's own token, drafts that were thrown away (of a chain).

    drafted, kept: how many tokens; of the first piece, which the prefill gives, 0.
    """

    accepted: str
    own: str
    rejected: str
    drafted: int = 0
    kept: int = 0


def round_pieces(tokenizer: Any, generation: Generation) -> list[RoundPiece]:
    """An answer cut into rounds; the first piece is the token that the prefill gave.

    A character of several tokens belongs to the part that completes it.
    """
    text = Detokenizer(tokenizer, skip_special_tokens=False)

    def pushed(tokens: Sequence[int]) -> str:
        return "".join(map(text.push, tokens))

    found = [RoundPiece("", pushed(generation.tokens[:1]), "")]
    start = 1
    for r in generation.rounds:
        own, end = start + r.kept, start + r.emitted
        accepted, last = pushed(generation.tokens[start:own]), pushed(generation.tokens[own:end])
        found.append(RoundPiece(accepted, last, str(tokenizer.decode(list(r.rejected))), len(r.drafted), r.kept))
        start = end
    found[-1] = replace(found[-1], own=found[-1].own + text.finish())
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
