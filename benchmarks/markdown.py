"""The tables of the documentation, written from committed results: `python benchmarks/markdown.py [--check]`.

A table stands behind a line that says where it comes from, and ends at the first line that is none of its own:

    <!-- table: demo-t0.json, demo-t1.json -->
    <!-- table: demo-t0.json; columns: prompts, drafter, speed-up; drafters: dflash-dpace, pard2 -->
    <!-- table: decoding-demo.json; ways: over_paradraft_plain -->

The files are in benchmarks/results/. Without `columns` a table has all of them. With `ways` the files are those of
decoding.py, and the table has a row for each prompt set and a column for each way, with the value that is named.
`--check` changes nothing and ends with 1 if a table is not what its files say; a test does the same. `--print FILE ...`
shows a table and the paired differences of files that are in no document yet.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from paradraft.evaluation.results import RunResult, read_results
from paradraft.evaluation.tables import EMITTED, difference, markdown_table

ROOT = Path(__file__).parents[1]
COLUMNS = (*EMITTED, "speed-up", "speed-up / emitted", "same text")
TABLE = re.compile(r"(?P<line><!-- table: (?P<says>[^\n]*) -->\n)(?P<table>(?:\|[^\n]*\n)*)")


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def table_of(says: str) -> str:
    """The table that a marker asks for."""
    files, *more = (part.strip() for part in says.split(";"))
    asked = dict(part.split(": ", 1) for part in more)
    if "ways" in asked:
        return table_of_ways(files.split(", "), asked["ways"])
    runs = [run for name in files.split(", ") for run in read_results(ROOT / "benchmarks" / "results" / name).runs]
    if "drafters" in asked:
        wanted = asked["drafters"].split(", ")
        runs = [run for run in runs if run.drafter.partition(":")[2] in wanted]
    return markdown_table(runs, asked["columns"].split(", ") if "columns" in asked else COLUMNS) + "\n"


def table_of_ways(files: list[str], value: str) -> str:
    """What decoding.py measured, a row for a prompt set in a batch of one size at one temperature."""
    rows: dict[str, dict[str, str]] = {}
    for name in files:
        found = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
        drafters = found["drafter"]
        for run in found["runs"]:
            row = f"{run['prompts']} ({run['answers']}) | {found['batch_size']} | {found['temperature']:g}"
            way = run["way"].removeprefix(drafters[0]).strip() if len(drafters) == 1 else run["way"]
            if run[value] is not None:
                rows.setdefault(row, {})[way] = f"{run[value]:.2f}"
    ways = list(dict.fromkeys(way for cells in rows.values() for way in cells))
    lines = [f"| prompts | batch | temp. | {' | '.join(ways)} |", f"| --- {'| --- ' * (len(ways) + 2)}|"]
    lines += [f"| {row} | {' | '.join(cells.get(way, '-') for way in ways)} |" for row, cells in rows.items()]
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """A document with every marked table as its files have it."""
    return TABLE.sub(lambda found: found["line"] + table_of(found["says"]), text)


def stale_documents() -> list[Path]:
    return [path for path in documents() if with_tables(text := path.read_text(encoding="utf-8")) != text]


def show(runs: list[RunResult]) -> None:
    print(markdown_table(runs, COLUMNS))
    print("\nPaired differences in emitted length, 95% bootstrap interval over prompts:\n")
    print("\n".join(f"- {sentence}" for run in runs if (sentence := difference(run))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if a table is not what its files say")
    parser.add_argument("--print", type=Path, nargs="+", dest="files", help="show these results")
    arguments = parser.parse_args()
    if arguments.files:
        show([run for path in arguments.files for run in read_results(path).runs])
        return 0
    stale = stale_documents()
    for path in stale:
        print(f"{path.relative_to(ROOT)}: " + ("tables differ from their files" if arguments.check else "rewritten"))
        if not arguments.check:
            path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
