"""What a study found: study.json as it is read, its table, and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from ..files import read_json, reading
from ..numbers import duration, number
from .figures import Line, PageSection, bar_chart, colour_of, line_chart, remark, table
from .results import title_of

COLUMNS = ("cell", "prompts", "temp.", "seeds", "emitted length", "against the baseline (95%)", "in %")


@dataclass(frozen=True)
class StudyRow:
    """A cell in one mode on one prompt set. spread: standard deviation over the seeds, None with one seed.

    difference, low, high: from the baseline, with the 95% interval over prompts; None for the baseline itself.
    """

    cell: str
    mode: str
    prompts: str
    temperature: float
    seeds: int
    emitted_length: float
    spread: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def title(self) -> str:
        return title_of(self.cell, self.mode)

    @property
    def gain(self) -> float | None:
        """The difference as a share of the baseline's emitted length."""
        return None if self.difference is None else self.difference / (self.emitted_length - self.difference)


@dataclass(frozen=True)
class StudyResults:
    """A whole study.json. trials: what every cell and seed gave, prompt by prompt. Older files lack the seconds."""

    baseline: str
    rows: list[StudyRow]
    trials: list[dict[str, Any]]
    seconds: float | None = None


def read_rows(rows: Sequence[dict[str, Any]]) -> list[StudyRow]:
    """Rows from their JSON; fields that this version does not know are dropped."""
    known = {field.name for field in fields(StudyRow)}
    return [StudyRow(**{name: value for name, value in row.items() if name in known}) for row in rows]


def read_study(path: Path) -> StudyResults:
    """UserError if the file is not what `paradraft study` writes. Older files do not name the baseline."""
    with reading(path, "what `paradraft study` writes", "run the study again"):
        found = read_json(path)
        rows = read_rows(found["rows"])
        compared = {row.cell for row in rows if row.difference is not None}
        baseline = found.get("baseline") or next((row.cell for row in rows if row.cell not in compared), None)
        if baseline is None:
            raise ValueError("no row is the baseline")
        return StudyResults(baseline, rows, found["trials"], found.get("seconds"))


def study_cells(row: StudyRow) -> list[str]:
    """In the order of COLUMNS."""
    spread = "" if row.spread is None else f" ± {number(row.spread, 3)}"
    against = gain = "-"
    if row.difference is not None and row.gain is not None:
        against = f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
        gain = f"{row.gain:+.1%}"
    emitted = f"{number(row.emitted_length, 3)}{spread}"
    return [row.title, row.prompts, f"{row.temperature:g}", str(row.seeds), emitted, against, gain]


def study_sections(study: StudyResults, name: str) -> list[PageSection]:
    """Emitted length of every cell as bars, by temperature; the table; acceptance by position."""
    spent = "" if study.seconds is None else f" {duration(study.seconds)} of training and measuring."
    explained = (
        "Tokens per forward of the target, its own included: mean over the seeds ± standard deviation. The baseline "
        f"is {study.baseline}; differences from it are over all seeds together, with the 95% interval over prompts."
        + spent
    )
    temperatures = list(dict.fromkeys(row.temperature for row in study.rows))
    bars = "".join(f"<h3>temperature {t:g}</h3>{study_bars(study.rows, t)}" for t in temperatures)
    cells = table(COLUMNS, list(map(study_cells, study.rows)), numbers_from=2)
    return [
        PageSection(f"{name}: emitted length by cell", bars + remark("The whiskers are the spread over the seeds.")),
        PageSection(f"{name}: table", cells + remark(explained)),
        PageSection(f"{name}: acceptance by position", study_acceptance(study.trials)),
    ]


def study_bars(rows: Sequence[StudyRow], temperature: float) -> str:
    lengths: dict[str, dict[str, float | None]] = {}
    spreads: dict[str, dict[str, float | None]] = {}
    for row in rows:
        if row.temperature == temperature:
            lengths.setdefault(row.title, {})[row.prompts] = row.emitted_length
            spreads.setdefault(row.title, {})[row.prompts] = row.spread
    return bar_chart(lengths, "emitted length", reference=1.0, spreads=spreads)


def study_acceptance(trials: Sequence[dict[str, Any]]) -> str:
    """A chart for each prompt set and temperature, a line for each cell: the mean over its seeds."""
    found: dict[str, dict[str, list[list[float | None]]]] = {}
    for trial in trials:
        for m in trial["measured"]:
            place = f"{m['prompts']}, temperature {m['temperature']:g}"
            title = title_of(trial["cell"], m["mode"])
            found.setdefault(place, {}).setdefault(title, []).append(m["acceptance"])
    parts = []
    for place, cells in found.items():
        lines = []
        for i, (title, seeds) in enumerate(cells.items()):
            known = [[share for share in shares if share is not None] for shares in zip(*seeds, strict=True)]
            y = [mean(shares) if shares else None for shares in known]
            lines.append(Line(title, range(1, len(y) + 1), y, colour_of(i)))
        parts.append(
            f"<h3>{escape(place)}</h3>{line_chart(lines, 'draft position', 'accepted', percent=True, marks=True)}"
        )
    return "".join(parts) + remark(
        "Given that all drafts before it were accepted; mean over the seeds. Few rounds reach the last positions."
    )
