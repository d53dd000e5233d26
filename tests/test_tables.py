"""The documentation's tables and the report are what the committed results say."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import markdown
from paradraft.errors import UserError
from tests.evaluation.test_report import figures, without_plotly

MARKERS = sorted(
    {
        found["says"]
        for path in markdown.documents()
        for found in markdown.TABLE.finditer(path.read_text(encoding="utf-8"))
    }
)


def read(name: str) -> Any:
    return json.loads((markdown.RESULTS / name).read_text(encoding="utf-8"))


def doubled(value: Any) -> Any:
    """Every figure of a JSON file twice as large."""
    if isinstance(value, dict):
        return {key: doubled(part) for key, part in value.items()}
    if isinstance(value, list):
        return [doubled(part) for part in value]
    return value * 2 if isinstance(value, int | float) and not isinstance(value, bool) else value


def cells_of(says: str) -> list[list[str]]:
    """The rows of a table without its header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.table_of(says).splitlines()[2:]]


def test_tables_are_what_their_files_say() -> None:
    assert not markdown.stale_documents(), "run python benchmarks/markdown.py"
    marked = [path for path in markdown.documents() if "<!-- table: " in path.read_text(encoding="utf-8")]
    assert {path.name for path in marked} >= {"README.md", "results.md", "engines.md", "data.md"}


def test_a_changed_figure_is_noticed() -> None:
    text = (markdown.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = next(markdown.TABLE.finditer(text))
    wrong = text.replace(table["table"], table["table"].replace("100.0%", "99.0%", 1))
    assert wrong != text and markdown.with_tables(wrong) == text


def test_every_kind_of_table_is_in_a_document() -> None:
    asked = {kind for says in MARKERS for kind in re.findall(r"; (?:kind: )?(\w+)", says) if kind in markdown.KINDS}
    assert asked == markdown.KINDS.keys() - {"results"}


@pytest.mark.parametrize("says", MARKERS, ids=lambda says: says[:60])
def test_a_table_follows_its_files(says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = markdown.table_of(says)
    for name in says.partition(";")[0].split(", "):
        (tmp_path / name).write_text(json.dumps(doubled(read(name))), encoding="utf-8")
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    assert markdown.table_of(says) != before


def test_a_study_has_a_row_for_each_cell_and_prompt_set() -> None:
    rows = {(row["cell"], row["prompts"]): row for row in read("smollm2-weightings.json")["rows"]}
    cells = cells_of("smollm2-weightings.json; kind: study")
    assert len(cells) == len(rows) and [cell[1] for cell in cells[:2]] == ["gsm8k", "gsm8k"]
    for cell, prompts, _, seeds, emitted, against, gain in cells:
        row = rows[cell, prompts]
        assert emitted == f"{row['emitted_length']:.3f} ± {row['spread']:.3f}" and seeds == str(row["seeds"])
        if cell == "dpace":
            base = rows["decay", prompts]["emitted_length"]
            assert against.startswith(f"{row['difference']:+.3f} ({row['low']:+.3f} to")
            assert gain == f"{row['emitted_length'] / base - 1:+.1%}"


def test_a_grid_has_mean_and_spread_over_all_its_files() -> None:
    files = ("objective-grid-pard.json", "objective-grid-pard-seed3.json")
    lengths = [
        cell["emitted_length"]
        for name in files
        for cell in read(name)["cells"]
        if (cell["weighting"], cell["token_loss"]) == ("dpace", "ce_kd")
    ]
    ce, ce_kd = cells_of(f"{', '.join(files)}; kind: grid")
    assert ce[:2] == ["PARD, 60 steps of 4", "CE"] and ce_kd[1] == "CE + KD" and len(lengths) == 3
    assert ce_kd[4] == f"{statistics.mean(lengths):.2f} ± {statistics.stdev(lengths):.2f} (3)"


def test_the_other_kinds_put_figures_where_they_belong() -> None:
    rate, clip, dpace, decay = cells_of("tune-dpace.json, tune-decay.json; kind: tuning; columns: a, b")[2]
    found = [read(name)["runs"][2] for name in ("tune-dpace.json", "tune-decay.json")]
    assert [rate, clip] == [str(found[0]["learning_rate"]), str(found[0]["max_grad_norm"])]
    assert [dpace, decay] == [f"{run['emitted_length']:.2f}" for run in found]
    run = read("vllm-drafting.json")["runs"][0]
    vllm, own = cells_of("vllm-drafting.json; kind: vllm")[:2]
    assert vllm[:3] == [run["drafter"], "vLLM", str(run["rounds"]["vllm"])] and own[1] == "paradraft"
    assert own[3] == " ".join(map(str, run["accepted"]["paradraft"]))
    assert (
        own[4] == f"{(run['rounds']['paradraft'] + sum(run['accepted']['paradraft'])) / run['rounds']['paradraft']:.3f}"
    )
    texts = {tuple(row[:2]): row[2:] for row in cells_of("regenerated-vs-raw.json; kind: texts")}
    for run in read("regenerated-vs-raw.json")["runs"]:
        name = "raw" if run["text"] == "raw" else "the target's own"
        assert texts["gsm8k", name][run["seed"] - 1] == f"{run['emitted_length']['gsm8k']:.2f}"
    features = {row[0]: row[2:] for row in cells_of("stored-features.json; kind: features")}
    for run in read("stored-features.json")["runs"]:
        assert features[run["features"]][run["seed"] - 1] == f"{run['emitted_length']:.3f}"


def test_a_kind_that_is_not_known_is_named() -> None:
    with pytest.raises(UserError, match="of kind 'pie'; choose one of results, ways, study"):
        markdown.table_of("demo-t0.json; kind: pie")


def test_one_command_writes_tables_and_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, page = tmp_path / "some.md", tmp_path / "report.html"
    document.write_text("<!-- table: pard-cost.json; kind: cod -->\n| old |\n\nText.\n")
    monkeypatch.setattr(markdown, "ROOT", tmp_path)
    monkeypatch.setattr(markdown, "documents", lambda: [document])
    monkeypatch.setattr(sys, "argv", ["markdown.py", "--page", str(page)])
    with pytest.raises(SystemExit) as ended:
        markdown.main()
    assert ended.value.code == 0
    assert "| COD | 4,031 |" in document.read_text() and document.read_text().endswith("|\n\nText.\n")
    monkeypatch.setattr(sys, "argv", ["markdown.py", "--check"])
    document.write_text(document.read_text().replace("4,031", "4,032"))
    with pytest.raises(SystemExit) as ended:
        markdown.main()
    assert ended.value.code == 1 and "4,032" in document.read_text()
    check_page(page)


def check_page(page: Path) -> None:
    """Each picture of the papers is there, with its file's own figures."""
    text = without_plotly(page)
    assert not re.search(r"(src|href)=[\"']?(http|//)|@import|url\(", text)
    parts = {part.partition("</h2>")[0]: part for part in text.split("<h2>")[1:]}
    runs = read("smollm2-t0.json")["runs"]
    runs = [run for run in runs if run["drafter"] == "smollm2:dflash-dpace"]
    bars, *_ = figures(parts["smollm2-t0: Speed-up"])[0]["data"]
    assert bars["y"] == [run["speedup"] for run in runs] and bars["x"] == [run["prompts"] for run in runs]
    conditional, unconditional, *_ = figures(parts["smollm2-t0: Acceptance by position"])[0]["data"]
    assert conditional["y"] == runs[0]["acceptance"]["conditional"]
    assert unconditional["y"] == runs[0]["acceptance"]["unconditional"]
    log = [json.loads(line) for line in (markdown.RESULTS / "demo-dpace-training.jsonl").read_text().splitlines()]
    lengths = figures(parts["demo-dpace-training: emitted length"])[0]["data"][0]
    assert lengths["y"] == [record["emitted_length"] for record in log if "emitted_length" in record]
    weights = figures(parts["demo-dpace-training: weights by draft position"])[0]["data"]
    assert len(weights) == 9 and weights[0]["x"][-1] == lengths["x"][-1] == 1600 + 1500 + 1500 + 1200
    speeds = figures(parts["smollm2 at temperature 0: tokens a second over batch size"])[0]["data"]
    auto = next(line for line in speeds if line["name"] == "K=auto")
    found = [read(f"decoding-smollm2-b{size}.json")["runs"] for size in (1, 4, 16)]
    assert auto["x"] == [1, 4, 16]
    assert auto["y"] == [
        next(r for r in runs if r["prompts"] == "gsm8k" and r["way"].endswith("K=auto"))["tokens_per_second"]
        for runs in found
    ]
    for row in read("smollm2-weightings.json")["rows"]:
        if "difference" in row:
            interval = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            assert interval in parts["smollm2-weightings: table"]
