"""Results as the Markdown tables of docs/results.md: `python benchmarks/markdown.py RESULTS.json ...`."""

from __future__ import annotations

import sys
from pathlib import Path

from paradraft.evaluation.results import read_results
from paradraft.evaluation.tables import EMITTED, difference, markdown_table

COLUMNS = (*EMITTED, "speed-up", "speed-up / emitted", "same text")


def main(paths: list[str]) -> None:
    runs = [run for path in paths for run in read_results(Path(path)).runs]
    print(markdown_table(runs, COLUMNS))
    print("\nPaired differences in emitted length, 95% bootstrap interval over prompts:\n")
    print("\n".join(f"- {sentence}" for run in runs if (sentence := difference(run))))


if __name__ == "__main__":
    main(sys.argv[1:])
