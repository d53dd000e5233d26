"""Reports: results and training runs as one HTML page that opens offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from html import escape
from pathlib import Path

from ..errors import UserError
from .bench import BenchResults
from .bench_report import COLUMNS as BENCH_COLUMNS
from .bench_report import bench_cells, bench_sentences
from .figures import (
    Line,
    PageSection,
    Record,
    bar_chart,
    colour_of,
    line_chart,
    pair,
    position_chart,
    remark,
    scalar_chart,
    share_chart,
    table,
    write_page,
)
from .measure import PLAIN
from .report_input import EXPECTED, ReportInput, name_of, read_input
from .results import Results, RunResult
from .study_report import study_sections
from .tables import EMITTED, USUAL_RULES, difference, rows_of
from .ways import batch_sections, way_sections

POINTS = 400
SETTINGS = (
    "target",
    "mode",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "batch_size",
    "max_new_tokens",
    "length_label",
    "acceptance_rule",
    "thinking",
    "date",
)
NAMED = {"length_label": "draft length"}
UNSET = {"thinking": "the template's default", "date": "today"}
COLUMNS = (*(column for column in EMITTED if column != "macro"), "plain tok/s", "tok/s", "speed-up", "same text")


def write_report(paths: Sequence[Path], out: Path) -> None:
    """Runs, logs, results, times, studies and ways side by side, each a file or a directory with one, as one page."""
    if not paths:
        raise UserError(f"nothing to report: {EXPECTED}")
    names = list(map(name_of, paths))
    unique = len(set(names)) == len(names)
    sources = [read_input(path, name if unique else str(path)) for path, name in zip(paths, names, strict=True)]
    sections = comparison_sections(sources)
    for source in sources:
        own = results_sections(source.results) if source.results else []
        if len(sources) > 1:
            own = [replace(section, title=f"{source.name}: {section.title}") for section in own]
        if source.study:
            own += study_sections(source.study, source.name)
        if source.ways:
            own += way_sections(source.ways, source.name)
        if source.bench:
            own += bench_sections(source.bench, source.name)
        if source.records:
            own += training_sections(source.records, source.name)
        if source.config:
            own.append(PageSection(f"{source.name}: configuration", f"<pre>{escape(source.config)}</pre>"))
        sections += own
    write_page("paradraft report", sections, out)


def results_sections(results: Results) -> list[PageSection]:
    """Table, speed-up, acceptance by position, time split and settings of one results.json."""
    runs = results.runs
    names = drafter_names(runs)
    sets = list(dict.fromkeys(run.prompts for run in runs))
    speedups: dict[str, dict[str, float | None]] = {name: {} for name in names}
    times: dict[str, dict[str, float]] = {}
    for run, name in zip(runs, names, strict=True):
        speedups[name][run.prompts] = run.speedup
        times[f"{name}\n{run.prompts}"] = asdict(run.seconds)
    return [
        PageSection("Results", results_table(runs)),
        PageSection("Speed-up", bar_chart(speedups, "times as fast as plain decoding", reference=1.0)),
        PageSection("Acceptance by position", "".join(acceptance_chart(runs, names, prompts) for prompts in sets)),
        PageSection("Where decoding time goes", share_chart(times, "s")),
        PageSection("Environment and settings", settings_table(runs, results.environment)),
    ]


def bench_sections(results: BenchResults, name: str) -> list[PageSection]:
    """Tokens a second over batch size, plain and drafted, with the table behind it."""
    sizes = sorted({run.batch_size for run in results.runs})
    lines = []
    for i, way in enumerate(dict.fromkeys(run.way for run in results.runs)):
        by_size = {run.batch_size: run.tokens_per_second for run in results.runs if run.way == way}
        dash = "dot" if way == PLAIN else "solid"
        lines.append(Line(way, sizes, [by_size.get(size) for size in sizes], colour_of(i), dash))
    chart = line_chart(lines, "batch size", "tokens a second", marks=True, ticks=sizes)
    explained = "".join(remark(sentence) for sentence in bench_sentences(results))
    facts = [["target", results.target], ["drafter", results.drafter], ["mode", results.mode]]
    facts += [[key, str(value)] for key, value in results.environment.items()]
    return [
        PageSection(f"{name}: speed over batch size", chart + explained),
        PageSection(
            f"{name}: times", table(BENCH_COLUMNS, bench_cells(results.runs), numbers_from=2) + table([], facts, 2)
        ),
    ]


def drafter_names(runs: Sequence[RunResult]) -> list[str]:
    """A name for each run: its drafter, and those settings in which the runs of a drafter differ.

    Runs that would still share name and prompts are numbered, so that none hides another in a chart.
    """
    marks = list(map(marks_of, runs))
    drafters = {run.title for run in runs}
    spread = [{(run.title, own[i]) for run, own in zip(runs, marks, strict=True)} for i in range(len(marks[0]))]
    differing = [i for i, found in enumerate(spread) if len(found) > len(drafters)]
    names, seen = [], Counter[tuple[str, str]]()
    for run, own in zip(runs, marks, strict=True):
        name = " ".join([run.title, *(own[i] for i in differing if own[i])])
        seen[name, run.prompts] += 1
        count = seen[name, run.prompts]
        names.append(name if count == 1 else f"{name} ({count})")
    return names


def marks_of(run: RunResult) -> tuple[str, ...]:
    """Every setting that tells two runs of a drafter apart, as a name shows it."""
    thinking = {None: "", True: "thinking", False: "no thinking"}
    return (
        run.target,
        run.length_label,
        "" if run.acceptance_rule in USUAL_RULES else run.acceptance_rule,
        f"T={run.temperature:g}",
        f"top-k {run.top_k}",
        f"top-p {run.top_p:g}",
        f"B={run.batch_size}",
        f"{run.max_new_tokens} tokens",
        f"seed {run.seed}",
        thinking[run.thinking],
        run.date or "",
    )


def results_table(runs: Sequence[RunResult]) -> str:
    counting = (
        "Emitted length: tokens per forward of the target, its own token of each round included (plain decoding is 1); "
        "the interval comes from resampling prompts. No loops: the same without answers that repeat themselves; loops: "
        "their share. Speeds are of decoding alone, prefill and first token excluded. Same text: share of answers "
        "equal to plain decoding's, token for token; nothing where answers are sampled."
    )
    differences = [remark(sentence) for run in runs if (sentence := difference(run))]
    return table(COLUMNS, rows_of(runs, COLUMNS), numbers_from=2) + remark(counting) + "".join(differences)


def acceptance_chart(runs: Sequence[RunResult], names: Sequence[str], prompts: str) -> str:
    """Both acceptances of every drafter on one prompt set."""
    colours = {name: colour_of(i) for i, name in enumerate(dict.fromkeys(names))}
    lines = []
    for run, name in zip(runs, names, strict=True):
        if run.prompts == prompts:
            for kind, dash in (("conditional", "solid"), ("unconditional", "dot")):
                y = getattr(run.acceptance, kind)
                lines.append(Line(f"{name}, {kind}", range(1, len(y) + 1), y, colours[name], dash))
    chart = line_chart(lines, "draft position", "accepted", percent=True, marks=True)
    conditional = "Conditional: given that all drafts before it were accepted."
    unconditional = "Unconditional: of all rounds that drafted that far."
    return f"<h3>{escape(prompts)}</h3>{chart}{remark(f'{conditional} {unconditional}')}"


def settings_table(runs: Sequence[RunResult], environment: Record) -> str:
    """All that is needed to repeat the figures; a setting that differs between runs shows all its values."""
    rows = [[name, str(value)] for name, value in environment.items()]
    for key in SETTINGS:
        values = [getattr(run, key) for run in runs]
        shown = dict.fromkeys(UNSET.get(key, "-") if value is None else str(value) for value in values)
        rows.append([NAMED.get(key, key.replace("_", " ")), ", ".join(shown)])
    marks: dict[str, str | None] = {}
    for run in runs:
        marks[f"hash of {run.prompts}"] = run.prompts_hash
        marks[f"source of {run.prompts}"] = run.prompts_source and f"{run.prompts_source}, {run.prompts_licence}"
        marks[f"weights of {run.target}"] = run.target_fingerprint
        marks[f"origin of {run.target}"] = run.target_origin
        marks[f"weights of {run.drafter}"] = run.drafter_fingerprint
    rows += [[name, value] for name, value in marks.items() if value]
    rows.append(["hash of the template", ", ".join(dict.fromkeys(run.template_hash for run in runs))])
    return table([], rows, numbers_from=2)


def training_sections(records: list[Record], name: str) -> list[PageSection]:
    """How one run went: emitted length of real decoding, loss, and what happens at each draft position."""
    evaluations, logged = kept(records, "emitted_length"), kept(records, "loss")
    sections = [PageSection(f"{name}: emitted length", evaluation_html(evaluations))] if evaluations else []
    if not logged:
        return sections
    size = -(-len(logged) // POINTS)
    steps = [averaged(logged[start : start + size]) for start in range(0, len(logged), size)]
    losses, entropies = scalar_chart(steps, "loss", 0), scalar_chart(steps, "cross_entropy", 1)
    last = logged[-1]
    divided = f"Loss: sum over the batch divided by {' and '.join(last['denominator'])}. "
    means = f"Each point is the mean of {size} logged steps. " if size > 1 else ""
    ended = f"At step {last['step']}: loss {last['loss']:.4g}, cross entropy {last['cross_entropy']:.4g}."
    reached, accuracy = position_chart(steps, "reached", True), position_chart(steps, "accuracy", True)
    weights = position_chart(steps, "weights", False) + remark(
        "The mean weight of each position's loss in the course of training."
    )
    explained = (
        "Reached: share of training blocks that are right at this position and all before it. "
        "Accuracy: right at this position."
    )
    return [
        *sections,
        PageSection(f"{name}: loss", pair(losses, entropies) + remark(divided + means + ended)),
        PageSection(f"{name}: weights by draft position", weights),
        PageSection(f"{name}: reached by draft position", pair(reached, accuracy) + remark(explained)),
    ]


def kept(records: Sequence[Record], key: str) -> list[Record]:
    """Records with `key`, each step once: a run resumed from an earlier step replaces what came after it.

    A log of several runs, each begun where the one before it ended, counts its steps on.
    """
    found: list[Record] = []
    before = 0
    for part in parts_of(records):
        own: list[Record] = []
        for record in part:
            if key in record:
                while own and own[-1]["step"] >= record["step"]:
                    own.pop()
                own.append(record)
        found += [record | {"step": before + record["step"]} for record in own]
        before += part[-1]["step"]
    return found


def parts_of(records: Sequence[Record]) -> list[list[Record]]:
    """A log cut where steps begin anew after the last one of a run, which no resumed run does."""
    parts: list[list[Record]] = []
    for record in records:
        last = parts[-1][-1] if parts else None
        if last is None or record["step"] < last["step"] == last.get("steps"):
            parts.append([])
        parts[-1].append(record)
    return parts


def averaged(records: Sequence[Record]) -> Record:
    """Neighbouring step records as one, at the last one's step."""
    means: Record = {"step": records[-1]["step"]}
    for key in ("loss", "cross_entropy"):
        means[key] = sum(record[key] for record in records) / len(records)
    for key in ("weights", "reached", "accuracy"):
        columns = zip(*(record[key] for record in records), strict=True)
        means[key] = [sum(column) / len(records) for column in columns]
    return means


def evaluation_html(evaluations: Sequence[Record]) -> str:
    x = [record["step"] for record in evaluations]
    lines = [Line("mean", x, [record["emitted_length"] for record in evaluations], colour_of(0))]
    by_set = [record.get("emitted_length_by_set", {}) for record in evaluations]
    sets = dict.fromkeys(name for lengths in by_set for name in lengths)
    if len(sets) > 1:
        lines += [Line(s, x, [found.get(s) for found in by_set], colour_of(i), "dot") for i, s in enumerate(sets, 1)]
    best, last = max(evaluations, key=lambda record: float(record["emitted_length"])), evaluations[-1]
    best_text, last_text = (f"{r['emitted_length']:.2f} at step {r['step']}" for r in (best, last))
    counting = "Real decoding of the prompt sets: tokens per forward of the target, its own token included."
    text = f"{counting} Best {best_text}, last {last_text}."
    return line_chart(lines, "step", "emitted length", marks=True) + remark(text)


def comparison_sections(sources: Sequence[ReportInput]) -> list[PageSection]:
    """Emitted length of several runs in one chart; speed over batch size, measured in a file for each size."""
    runs = [(source.name, kept(source.records, "emitted_length")) for source in sources]
    lines = [
        Line(name, [r["step"] for r in evaluations], [r["emitted_length"] for r in evaluations], colour_of(i))
        for i, (name, evaluations) in enumerate(runs)
        if evaluations
    ]
    chart = line_chart(lines, "step", "emitted length", marks=True)
    text = "Compare only runs that were evaluated on the same prompts of one target."
    together = [PageSection("Runs: emitted length", chart + remark(text))] if len(lines) > 1 else []
    return together + batch_sections([source.ways for source in sources if source.ways])
