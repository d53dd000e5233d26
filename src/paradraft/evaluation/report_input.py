"""What a report can be made of: from a path to a run, its log, results, times, a study or ways side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import parse_json
from .bench import BENCH_FILE, BenchResults, read_bench
from .figures import Record
from .results import Results, read_results
from .study_report import StudyResults, read_study
from .ways import WayResults, read_ways

EXPECTED = (
    "expected a run directory with metrics.jsonl or such a log, a results.json as `paradraft eval --out` writes it, a "
    "bench.json of `paradraft bench --out`, a study.json of `paradraft study`, or what benchmarks/decoding.py wrote"
)
FILES = {
    "metrics.jsonl": "records",
    "config.yaml": "config",
    "results.json": "results",
    BENCH_FILE: "bench",
    "study.json": "study",
}
STEP_KEYS = {"cross_entropy", "denominator", "weights", "reached", "accuracy"}


@dataclass(frozen=True)
class ReportInput:
    """What was found under one of the paths; a directory may hold several of these."""

    name: str
    records: list[Record] = field(default_factory=list)
    config: str = ""
    results: Results | None = None
    bench: BenchResults | None = None
    study: StudyResults | None = None
    ways: WayResults | None = None


def name_of(path: Path) -> str:
    """A directory's name; a file's own, unless it has the name that all files of its kind get."""
    whole = path.resolve()
    if path.is_dir():
        return whole.name
    return whole.parent.name if whole.name in FILES else whole.stem


def read_input(path: Path, name: str) -> ReportInput:
    """All that can be read under `path`, which is a directory or one file."""
    files = [path / file for file in FILES] if path.is_dir() else [path]
    kinds = {kind: file for file in files if file.is_file() and (kind := kind_of(file))}
    if not kinds.keys() - {"config"}:
        raise UserError(f"{path} {'holds no run or results' if path.exists() else 'does not exist'}; {EXPECTED}")
    found: dict[str, Any] = {kind: READERS[kind](file) for kind, file in kinds.items()}
    return ReportInput(name, **found)


def kind_of(path: Path) -> str | None:
    """By name, or of a JSON file by what it holds; results, whose reader says what is wrong, if it is nothing else."""
    if path.name in FILES or path.suffix != ".json":
        return FILES.get(path.name, "records" if path.suffix == ".jsonl" else None)
    try:
        found = parse_json(read_text(path))
    except ValueError:
        return "results"
    if not isinstance(found, dict):
        return "results"
    runs = found.get("runs")
    if isinstance(runs, list) and runs and isinstance(runs[0], dict) and "way" in runs[0]:
        return "ways"
    return "bench" if "bench" in found else "study" if "trials" in found else "results"


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); {EXPECTED}") from error


def read_records(path: Path) -> list[Record]:
    """Records of a training log; the last line may be incomplete, because the run may still be writing it."""
    lines, records = read_text(path).splitlines(), []
    for i, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and "step" in record and ("loss" not in record or record.keys() >= STEP_KEYS):
            records.append(record)
        elif record is not None or i < len(lines):
            raise UserError(f"line {i} of {path} is not a training record; {EXPECTED}")
    if not records:
        raise UserError(f"{path} holds no record yet; {EXPECTED}")
    return records


READERS: Mapping[str, Callable[[Path], Any]] = {
    "records": read_records,
    "config": read_text,
    "results": read_results,
    "bench": read_bench,
    "study": read_study,
    "ways": read_ways,
}
