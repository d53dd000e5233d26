"""Reports of logs, studies and ways of decoding side by side: their own figures, one sentence for a wrong file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paradraft.errors import UserError
from paradraft.evaluation.report import write_report
from paradraft.evaluation.report_input import name_of, read_input
from paradraft.evaluation.study_report import read_study, study_cells, study_sections
from paradraft.evaluation.ways import batch_sections, read_ways, way_sections
from tests.evaluation.test_report import RECORDS, figures, without_plotly

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"


def study_file(directory: Path, **changes: Any) -> Path:
    """Two cells, two seeds, two prompt sets."""
    rows: list[dict[str, Any]] = []
    for prompts, length in (("math", 2.0), ("chat", 1.5)):
        row = {"mode": "dependent", "prompts": prompts, "temperature": 0.0, "seeds": 2}
        rows.append(row | {"cell": "decay", "emitted_length": length, "spread": 0.01})
        gained = {"difference": 0.2, "low": 0.1, "high": 0.3, "later": "unknown"}
        rows.append(row | gained | {"cell": "dpace", "emitted_length": length + 0.2, "spread": 0.02})
    measured = {"prompts": "math", "temperature": 0.0, "mode": "independent"}
    trials = [
        {"cell": "dpace", "seed": seed, "measured": [measured | {"acceptance": [first, last]}]}
        for seed, first, last in ((1, 0.5, None), (2, 0.7, 0.25))
    ]
    path = directory / "study.json"
    path.write_text(json.dumps({"baseline": "decay", "rows": rows, "seconds": 7200.0, "trials": trials} | changes))
    return path


def ways_file(directory: Path, batch_size: int, name: str = "", **changes: Any) -> Path:
    """Plain and drafted decoding of one prompt set, faster in larger batches."""
    run = {"prompts": "gsm8k", "answers": 4, "tokens": 64, "seconds": 1.0, "same_text": 1.0}
    speeds = {"transformers plain": 25.0, "paradraft plain": 30.0, "small K=4": 45.0}
    runs = [
        run | {"way": way, "tokens_per_second": speed * batch_size, "over_paradraft_plain": speed / 30.0}
        for way, speed in speeds.items()
    ]
    facts = {"target": "big", "drafter": ["small"], "temperature": 0.0, "max_new_tokens": 64, "threads": 2}
    found = facts | {"dtype": "auto", "batch_size": batch_size, "runs": runs, "environment": {"device": "Test CPU"}}
    path = directory / f"{name or f'b{batch_size}'}.json"
    path.write_text(json.dumps(found | changes))
    return path


def test_a_log_outside_a_run_is_drawn(tmp_path: Path) -> None:
    log = tmp_path / "dpace-training.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    write_report([log], tmp_path / "page.html")
    page = without_plotly(tmp_path / "page.html")
    assert "<h2>dpace-training: emitted length</h2>" in page and "Best 1.87 at step 10, last 1.79 at step 20" in page
    lengths, _, _, weights, *_ = figures(page)
    assert lengths["data"][0]["y"] == [1.01, 1.87, 1.79]
    assert [trace["y"] for trace in weights["data"]] == [[1.0, 1.0], [0.7, 0.7], [0.35, 0.35]]


def test_a_study_shows_bars_with_spread_differences_and_acceptance(tmp_path: Path) -> None:
    bars, table, acceptance = study_sections(read_study(study_file(tmp_path)), "mine")
    first, second = figures(bars.html)[0]["data"]
    assert (first["name"], first["x"], first["y"]) == ("decay", ["math", "chat"], [2.0, 1.5])
    assert (second["name"], second["y"], second["error_y"]["array"]) == ("dpace", [2.2, 1.7], [0.02, 0.02])
    for text in ("2.000 ± 0.010", "+0.200 (+0.100 to +0.300)", "+10.0%", "+13.3%", "baseline is decay", "2.0 h"):
        assert text in table.html
    (line,) = figures(acceptance.html)[0]["data"]
    assert line["name"] == "dpace independent" and line["y"] == pytest.approx([0.6, 0.25])


def test_temperatures_and_modes_of_a_study_stay_apart(tmp_path: Path) -> None:
    row = {"cell": "pard2", "prompts": "math", "seeds": 1, "spread": None}
    rows = [
        row | {"mode": mode, "temperature": temperature, "emitted_length": length}
        for mode, temperature, length in (("dependent", 0, 3.0), ("independent", 0, 2.0), ("dependent", 1, 2.5))
    ]
    bars = study_sections(read_study(study_file(tmp_path, baseline="pard2", rows=rows)), "mine")[0].html
    shown = [[(t["name"], t["y"], t["error_y"]["array"]) for t in chart["data"]] for chart in figures(bars)]
    assert shown == [[("pard2", [3.0], [None]), ("pard2 independent", [2.0], [None])], [("pard2", [2.5], [None])]]


def test_a_study_of_an_older_version_is_read(tmp_path: Path) -> None:
    """Without its baseline's name and its seconds."""
    found = json.loads((COMMITTED / "smollm2-weightings.json").read_text())
    older = tmp_path / "study.json"
    older.write_text(json.dumps({"rows": found["rows"], "trials": found["trials"]}))
    study = read_study(older)
    assert study.baseline == "decay" and study.seconds is None
    assert [row.emitted_length for row in study.rows] == [row["emitted_length"] for row in found["rows"]]
    row = found["rows"][3]
    length, spread, difference = (row[name] for name in ("emitted_length", "spread", "difference"))
    assert study_cells(study.rows[3])[4:] == [
        f"{length:.3f} ± {spread:.3f}",
        f"{difference:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})",
        f"{difference / (length - difference):+.1%}",
    ]
    assert len(figures("".join(s.html for s in study_sections(study, "old")))) == 4


def test_ways_of_decoding_show_speed_ups_and_their_table(tmp_path: Path) -> None:
    chart, table = way_sections(read_ways(ways_file(tmp_path, 4)), "b4")
    traces = figures(chart.html)[0]["data"]
    assert [t["name"] for t in traces] == ["transformers plain", "K=4"]
    assert traces[1]["x"] == ["gsm8k"] and traces[1]["y"] == [1.5] and "Batches of 4" in chart.html
    for text in ("gsm8k (4)", "small K=4", "180.0", "1.50", "100%", "Test CPU"):
        assert f">{text}</td>" in table.html


def test_batch_sizes_of_one_target_are_drawn_together(tmp_path: Path) -> None:
    again = ways_file(tmp_path, 4, "again")
    other = ways_file(tmp_path, 16, "other", target="another", runs=[])
    warm = ways_file(tmp_path, 16, "warm", temperature=1.0)
    files = [ways_file(tmp_path, 16), ways_file(tmp_path, 1), ways_file(tmp_path, 4), again, other, warm]
    (section,) = batch_sections(list(map(read_ways, files)))
    assert section.title == "big at temperature 0: tokens a second over batch size"
    lines = {t["name"]: t for t in figures(section.html)[0]["data"]}
    assert lines["K=4"]["x"] == [1, 4, 4, 16] and lines["K=4"]["y"] == [45.0, 180.0, 180.0, 720.0]
    assert lines["paradraft plain"]["y"][-1] == 480.0 and lines["paradraft plain"]["line"]["dash"] == "dot"
    assert batch_sections([read_ways(files[0])]) == []


def test_all_kinds_are_told_apart_on_one_page(tmp_path: Path) -> None:
    log = tmp_path / "dpace.jsonl"
    log.write_text(json.dumps(RECORDS[0]) + "\n")
    study_file(tmp_path).rename(tmp_path / "weightings.json")
    paths = [log, tmp_path / "weightings.json", ways_file(tmp_path, 1), ways_file(tmp_path, 4)]
    write_report([*paths, COMMITTED / "smollm2-auto.json"], tmp_path / "page.html")
    page = without_plotly(tmp_path / "page.html")
    for title in ("dpace: emitted length", "weightings: table", "b4: ways", "smollm2-auto: Speed-up"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("tokens a second over batch size</h2>") == 1


def test_names_of_files_and_directories(tmp_path: Path) -> None:
    directory = tmp_path / "my.run"
    directory.mkdir()
    assert name_of(directory) == name_of(study_file(directory)) == "my.run"
    assert name_of(ways_file(directory, 1, "decoding-b1")) == "decoding-b1"
    assert read_input(directory, "x").study is not None


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("study.json", "{", "not what `paradraft study` writes"),
        ("mine.json", '{"trials": []}', "not what `paradraft study` writes .*'rows'.*run the study again"),
        ("mine.json", '{"trials": [], "rows": [{"cell": "a"}]}', "not what `paradraft study` writes .*emitted_length"),
        ("mine.json", '{"runs": [{"way": "plain"}]}', "not what benchmarks/decoding.py writes .*run it again"),
        ("mine.json", "5", "no list of `runs`"),
        ("mine.json", "{", "is not JSON"),
        ("mine.jsonl", '{"question": "?"}\n', "line 1 of .* is not a training record"),
        ("config.yaml", "a: 1\n", "holds no run or results"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        write_report([tmp_path / name], tmp_path / "page.html")
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_baseline_with_two_modes_is_still_the_baseline(tmp_path: Path) -> None:
    """Its second mode is compared with the first."""
    row = {"cell": "pard2", "prompts": "math", "temperature": 0, "seeds": 1, "spread": None, "emitted_length": 2.0}
    compared = {"difference": -0.1, "low": -0.2, "high": 0.0}
    rows = [row | {"mode": "dependent"}, row | {"mode": "independent"} | compared]
    assert read_study(study_file(tmp_path, baseline="pard2", rows=rows)).baseline == "pard2"
