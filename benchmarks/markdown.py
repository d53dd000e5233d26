"""The tables of the documentation, and a report, from committed results: `python benchmarks/markdown.py [--check]`.

A table stands behind a line that says where it comes from, and ends at the first line that is none of its own:

    <!-- table: demo-t0.json, demo-t1.json -->
    <!-- table: demo-t0.json; columns: prompts, drafter, speed-up; drafters: dflash-dpace, pard2 -->
    <!-- table: decoding-demo.json; ways: over_paradraft_plain -->
    <!-- table: tune-dpace.json, tune-decay.json; kind: tuning; columns: D-PACE, decay -->

The files are in benchmarks/results/. The kind says what wrote them and is a key of KINDS; without one they are of
`paradraft eval`, and without `columns` such a table has all of them. With `ways` the files are those of decoding.py,
and the table has a row for each prompt set and a column for each way, with the value that is named. `--check` changes
nothing and ends with 1 if a table is not what its files say; a test does the same. `--page FILE` writes the pictures of
REPORTED too, as one HTML file. `--print FILE ...` shows a table and the paired differences of files that are in no
document yet.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paradraft.errors import UserError, run_program
from paradraft.evaluation.report import write_report
from paradraft.evaluation.results import RunResult, read_results
from paradraft.evaluation.study_report import COLUMNS as STUDY_COLUMNS
from paradraft.evaluation.study_report import read_study, study_cells
from paradraft.evaluation.tables import EMITTED, difference, markdown, markdown_table, rows_of
from paradraft.evaluation.ways import read_ways

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
REPORTED = (
    "smollm2-t0.json",
    "smollm2-t0-livecodebench-60.json",
    "smollm2-auto.json",
    "smollm2-weightings.json",
    "smollm2-objectives.json",
    "smollm2-losses.json",
    "smollm2-own.json",
    "demo-forks.json",
    "decoding-smollm2-b1.json",
    "decoding-smollm2-b4.json",
    "decoding-smollm2-b16.json",
    "decoding-smollm2-b1-t1.json",
    "decoding-smollm2-pard2-b1.json",
    "demo-t0-retrained.json",
    "demo-t1-retrained.json",
    "decoding-demo-own-b1.json",
    "decoding-demo-own-b16.json",
    "decoding-demo-own-b1-t1.json",
    "smollm2-dpace-training-4.jsonl",
    "smollm2-pard2-training-3.jsonl",
    "demo-dpace-training.jsonl",
    "demo-decay-training.jsonl",
    "demo-pard-training.jsonl",
    "demo-pard2-training.jsonl",
)
"""What the report shows, in this order."""

COLUMNS = (*EMITTED, "speed-up", "speed-up / emitted", "same text")
TABLE = re.compile(r"(?P<line><!-- table: (?P<says>[^\n]*) -->\n)(?P<table>(?:\|[^\n]*\n)*)")
NAMES = {"dflash": "DFlash", "pard": "PARD", "pard2": "PARD-2", "dpace": "D-PACE", "cat": "CAT"}
NAMES |= {"ce": "CE", "ce_kd": "CE + KD", "raw": "raw", "regenerated": "the target's own"}
NAMES |= {"cod": "COD", "kept": "every step, without COD", "naive": "all K offsets of every position, one dense mask"}
BYTES = {"online": "none", "bfloat16": "2", "int8": "1"}

Cells = list[list[str]]
Asked = dict[str, str]


# --- one function for each kind of file: names of files, what the marker asks for -> cells, the header first ----------


def results_cells(files: list[str], asked: Asked) -> Cells:
    """What `paradraft eval` measured."""
    runs = [run for name in files for run in read_results(RESULTS / name).runs]
    if "drafters" in asked:
        wanted = asked["drafters"].split(", ")
        runs = [run for run in runs if run.drafter.partition(":")[2] in wanted]
    columns = asked["columns"].split(", ") if "columns" in asked else COLUMNS
    return [list(columns), *rows_of(runs, columns)]


def ways_cells(files: list[str], asked: Asked) -> Cells:
    """What decoding.py measured: a row for a prompt set in batches of one size, a column for each way of decoding."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for found in (read_ways(RESULTS / name) for name in files):
        for run in found.runs:
            row = f"{run.prompts} ({run.answers})", str(found.batch_size), f"{found.facts['temperature']:g}"
            rows.setdefault(row, {})[found.short(run.way)] = f"{getattr(run, asked['ways']):.2f}"
    ways = list(dict.fromkeys(way for cells in rows.values() for way in cells))
    return [["prompts", "batch", "temp.", *ways], *([*row, *(c.get(w, "-") for w in ways)] for row, c in rows.items())]


def study_table_cells(files: list[str], asked: Asked) -> Cells:
    """What `paradraft study` found, prompt set by prompt set."""
    rows = [row for name in files for row in read_study(RESULTS / name).rows]
    sets = list(dict.fromkeys(row.prompts for row in rows))
    return [list(STUDY_COLUMNS), *(study_cells(row) for prompts in sets for row in rows if row.prompts == prompts)]


def tuning_cells(files: list[str], asked: Asked) -> Cells:
    """What tune_demo.py measured: a file in each of the columns."""
    found = [
        {(r["learning_rate"], r["max_grad_norm"]): r["emitted_length"] for r in read(name)["runs"]} for name in files
    ]
    header = ["learning rate", "clip", *asked["columns"].split(", ")]
    return [header, *([f"{rate}", f"{clip}", *(f"{f[rate, clip]:.2f}" for f in found)] for rate, clip in found[0])]


def grid_cells(files: list[str], asked: Asked) -> Cells:
    """What objective_grid.py measured: mean and standard deviation over the seeds."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell in (cell for name in files for cell in read(name)["cells"]):
        drafter = f"{NAMES[cell['drafter']]}, {cell['steps']} steps of {cell['batch_size']}"
        lengths = found.setdefault((drafter, NAMES[cell["token_loss"]]), {})
        lengths.setdefault(cell["weighting"], []).append(cell["emitted_length"])
    weightings = list(dict.fromkeys(weighting for lengths in found.values() for weighting in lengths))
    rows = [[*row, *(over_seeds(lengths.get(w, [])) for w in weightings)] for row, lengths in found.items()]
    return [["drafter", "token loss", *(NAMES.get(w, w) for w in weightings)], *rows]


def over_seeds(lengths: list[float]) -> str:
    """Mean, standard deviation, and in brackets how many."""
    spread = f" ± {statistics.stdev(lengths):.2f}" if len(lengths) > 1 else ""
    return f"{statistics.mean(lengths):.2f}{spread} ({len(lengths)})" if lengths else "-"


def cod_cells(files: list[str], asked: Asked) -> Cells:
    """What pard_cost.py measured."""
    rows = [
        [NAMES[run["way"]], f"{run['queries']:,}", f"{run['seconds']:.0f}", f"{run['peak_mib_above_start']:,.0f} MiB"]
        for name in files
        for run in read(name)["runs"]
    ]
    return [["laid out", "queries", "seconds", "peak memory above the start"], *rows]


def vllm_cells(files: list[str], asked: Asked) -> Cells:
    """What vllm_drafting.py counted in vLLM and here."""
    rows = []
    for run in (run for name in files for run in read(name)["runs"]):
        for engine, shown in (("vllm", "vLLM"), ("paradraft", "paradraft")):
            rounds, kept = run["rounds"][engine], run["accepted"][engine]
            counts = " ".join(map(str, kept))
            rows.append([run["drafter"], shown, str(rounds), counts, f"{1 + sum(kept) / rounds:.3f}"])
    return [["drafter", "engine", "rounds", "rounds that kept draft 1, 2, ...", "tokens a round"], *rows]


def texts_cells(files: list[str], asked: Asked) -> Cells:
    """What regenerated_vs_raw.py measured."""
    runs = [run for name in files for run in read(name)["runs"]]
    measured = [
        ((prompts, NAMES[run["text"]]), run["seed"], f"{run['emitted_length'][prompts]:.2f}")
        for prompts in runs[0]["emitted_length"]
        for run in runs
    ]
    return by_seed(["prompts", "text"], measured)


def features_cells(files: list[str], asked: Asked) -> Cells:
    """What stored_features.py measured."""
    runs = [run for name in files for run in read(name)["runs"]]
    return by_seed(
        ["features", "bytes a value"],
        [((r["features"], BYTES[r["features"]]), r["seed"], f"{r['emitted_length']:.3f}") for r in runs],
    )


def by_seed(header: list[str], measured: list[tuple[tuple[str, ...], int, str]]) -> Cells:
    """(row, seed, figure) -> a column for each seed."""
    seeds = sorted({seed for _, seed, _ in measured})
    found = {(row, seed): figure for row, seed, figure in measured}
    rows = dict.fromkeys(row for row, _, _ in measured)
    lines = [[*row, *(found.get((row, seed), "-") for seed in seeds)] for row in rows]
    return [[*header, *(f"seed {seed}" for seed in seeds)], *lines]


KINDS: dict[str, Callable[[list[str], Asked], Cells]] = {
    "results": results_cells,
    "ways": ways_cells,
    "study": study_table_cells,
    "tuning": tuning_cells,
    "grid": grid_cells,
    "cod": cod_cells,
    "vllm": vllm_cells,
    "texts": texts_cells,
    "features": features_cells,
}


# --- documents --------------------------------------------------------------------------------------------------------


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def table_of(says: str) -> str:
    """The table that a marker asks for."""
    files, *more = (part.strip() for part in says.split(";"))
    asked = dict(part.split(": ", 1) for part in more)
    kind = "ways" if "ways" in asked else asked.get("kind", "results")
    if kind not in KINDS:
        raise UserError(f"a marker asks for a table of kind {kind!r}; choose one of {', '.join(KINDS)}")
    header, *rows = KINDS[kind](files.split(", "), asked)
    return markdown(header, rows) + "\n"


def with_tables(text: str) -> str:
    """A document with every marked table as its files have it."""
    return TABLE.sub(lambda found: found["line"] + table_of(found["says"]), text)


def stale_documents() -> list[Path]:
    return [path for path in documents() if with_tables(text := path.read_text(encoding="utf-8")) != text]


def show(runs: list[RunResult]) -> None:
    print(markdown_table(runs, COLUMNS))
    print("\nPaired differences in emitted length, 95% bootstrap interval over prompts:\n")
    print("\n".join(f"- {sentence}" for run in runs if (sentence := difference(run))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if a table is not what its files say")
    parser.add_argument("--page", type=Path, help="write the report too, as this HTML file")
    parser.add_argument("--print", type=Path, nargs="+", dest="files", help="show these results")
    arguments = parser.parse_args()
    if arguments.files:
        show([run for path in arguments.files for run in read_results(path).runs])
        return
    stale = stale_documents()
    for path in stale:
        print(f"{path.relative_to(ROOT)}: " + ("tables differ from their files" if arguments.check else "rewritten"))
        if not arguments.check:
            path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    if arguments.page:
        write_report([RESULTS / name for name in REPORTED], arguments.page)
    sys.exit(int(arguments.check and bool(stale)))


if __name__ == "__main__":
    run_program("markdown.py", main)
