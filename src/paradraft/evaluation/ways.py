"""Ways of decoding side by side, as benchmarks/decoding.py writes them: read, as tables, as pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

from ..files import read_json, reading
from ..numbers import number
from .figures import Line, PageSection, bar_chart, colour_of, line_chart, remark, table

TRANSFORMERS, OWN = "transformers plain", "paradraft plain"
COLUMNS = ("way", "tok/s", "over Transformers", "over own plain", "same text", "emitted", "drafted")
FACTS = ("target", "drafter", "temperature", "max_new_tokens", "threads", "dtype")
"""What files must share if one differs from the other in the batch size alone."""


@dataclass
class WayRun:
    """One way on one prompt set. same_text: share of answers equal to Transformers' plain ones; None where sampled."""

    prompts: str
    way: str
    answers: int
    tokens: int = 0
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    over_transformers: float = 0.0
    over_paradraft_plain: float = 0.0
    same_text: float | None = None
    emitted_length: float | None = None
    mean_draft_length: float | None = None


@dataclass(frozen=True)
class WayResults:
    """A whole file. facts: the settings that FACTS names."""

    batch_size: int
    facts: dict[str, Any]
    runs: list[WayRun]
    environment: dict[str, Any]

    def short(self, way: str) -> str:
        """Without the drafter's name where there is only one."""
        drafters = self.facts["drafter"]
        return way.removeprefix(drafters[0]).strip() if len(drafters) == 1 else way


def read_ways(path: Path) -> WayResults:
    """UserError if the file is not what benchmarks/decoding.py writes; fields that are not known are dropped."""
    known = {field.name for field in fields(WayRun)}
    with reading(path, "what benchmarks/decoding.py writes", "run it again"):
        found = read_json(path)
        runs = [WayRun(**{name: value for name, value in run.items() if name in known}) for run in found["runs"]]
        facts = {fact: found[fact] for fact in FACTS}
        return WayResults(found["batch_size"], facts, runs, found["environment"])


def way_cells(run: WayRun) -> list[str]:
    """In the order of COLUMNS."""
    ratios = number(run.over_transformers), number(run.over_paradraft_plain)
    same = "-" if run.same_text is None else f"{run.same_text:.0%}"
    drafts = number(run.emitted_length), number(run.mean_draft_length, 1)
    return [run.way, number(run.tokens_per_second, 1), *ratios, same, *drafts]


def way_sections(results: WayResults, name: str) -> list[PageSection]:
    """Speed-up by prompt set and way, and the table behind it."""
    speedups: dict[str, dict[str, float | None]] = {}
    for run in results.runs:
        if run.way != OWN:
            speedups.setdefault(results.short(run.way), {})[run.prompts] = run.over_paradraft_plain
    chart = bar_chart(speedups, "times as fast as plain decoding here", reference=1.0)
    rows = [[f"{run.prompts} ({run.answers})", *way_cells(run)] for run in results.runs]
    named = results.facts | {"drafter": ", ".join(results.facts["drafter"])} | results.environment
    facts = [[key.replace("_", " "), str(value)] for key, value in named.items()]
    text = (
        f"Batches of {results.batch_size}. All ways took turns on the same prompts; times are of whole calls, prefill "
        "included, so a speed-up is lower here than `paradraft eval` has it. In brackets: how many prompts."
    )
    tables = table(("prompts", *COLUMNS), rows, numbers_from=2) + table([], facts, 2)
    return [PageSection(f"{name}: speed-up by way", chart + remark(text)), PageSection(f"{name}: ways", tables)]


def batch_sections(files: Sequence[WayResults]) -> list[PageSection]:
    """Tokens a second over the batch size, where files differ in it and in nothing else."""
    groups: dict[str, list[WayResults]] = {}
    for found in files:
        groups.setdefault(json.dumps(found.facts), []).append(found)
    sections = []
    for group in groups.values():
        charts = [batch_chart(group, prompts) for prompts in dict.fromkeys(r.prompts for f in group for r in f.runs)]
        if any(charts):
            facts = group[0].facts
            title = f"{facts['target']} at temperature {facts['temperature']:g}: tokens a second over batch size"
            drafters = ", ".join(facts["drafter"])
            text = f"Drafted by {drafters}. Dotted: without a drafter. Larger batches answered more prompts."
            sections.append(PageSection(title, "".join(charts) + remark(text)))
    return sections


def batch_chart(group: Sequence[WayResults], prompts: str) -> str:
    """One line a way; nothing unless these prompts were answered in batches of several sizes."""
    points: dict[str, list[tuple[int, float]]] = {}
    for found in group:
        for run in found.runs:
            if run.prompts == prompts:
                points.setdefault(found.short(run.way), []).append((found.batch_size, run.tokens_per_second))
    sizes = sorted({size for measured in points.values() for size, _ in measured})
    if len(sizes) < 2:
        return ""
    lines = []
    for i, (way, measured) in enumerate(points.items()):
        x, y = zip(*sorted(measured), strict=True)
        lines.append(Line(way, x, y, colour_of(i), "dot" if way in (TRANSFORMERS, OWN) else "solid"))
    chart = line_chart(lines, "batch size", "tokens a second", marks=True, ticks=sizes)
    return f"<h3>{escape(prompts)}</h3>{chart}"
