"""Results as the Markdown tables of docs/results.md: `python benchmarks/markdown.py RESULTS.json ...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from paradraft.evaluation.tables import drafter_title

HEADER = (
    "| prompts | temp. | drafter | emitted length (95%) | without loops | macro | loops | speed-up "
    "| speed-up / emitted | same text |\n|---|---|---|---|---|---|---|---|---|---|"
)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def row(run: dict[str, Any]) -> str:
    emitted = run["emitted_length"]
    share = run["speedup"] / emitted["micro"] if emitted["micro"] else None
    same = "-" if run["identical_share"] is None else f"{run['identical_share']:.1%}"
    cells = [
        f"{run['prompts']} ({run['prompt_count']})",
        f"{run['temperature']:g}",
        f"{drafter_title(run).removeprefix('demo:')}, K = {run['draft_length']}",
        f"{number(emitted['micro'])} ({number(emitted['low'])} to {number(emitted['high'])})",
        number(emitted["non_looping"]),
        number(emitted["macro"]),
        f"{run['loop_share']:.0%}",
        number(run["speedup"]),
        number(share),
        same,
    ]
    return f"| {' | '.join(cells)} |"


def difference(run: dict[str, Any]) -> str:
    against = run["against_first"]
    return (
        f"- {run['prompts']}, temperature {run['temperature']:g}: {drafter_title(run)} minus {drafter_title(against)}: "
        f"{against['emitted_length_difference']:+.3f} ({against['low']:+.3f} to {against['high']:+.3f})"
    )


def main(paths: list[str]) -> None:
    runs = [run for path in paths for run in json.loads(Path(path).read_text(encoding="utf-8"))["runs"]]
    print(HEADER)
    print("\n".join(row(run) for run in runs))
    print("\nPaired differences in emitted length, 95% bootstrap interval over prompts:\n")
    print("\n".join(difference(run) for run in runs if "against_first" in run))


if __name__ == "__main__":
    main(sys.argv[1:])
