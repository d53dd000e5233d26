"""Reports: the right figures, nothing loaded from outside, nothing unescaped, one sentence for a wrong path."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs  # type: ignore[attr-defined]

from paradraft.errors import UserError
from paradraft.evaluation.figures import PageSection, rounds_section, write_page
from paradraft.evaluation.report import kept, results_sections, training_sections, write_report
from paradraft.evaluation.results import Results, read_run
from paradraft.evaluation.tables import RoundPiece, acceptance_table


def result(drafter: str, prompts: str = "demo:math", **changes: Any) -> dict[str, Any]:
    run = {
        "target": "demo",
        "drafter": drafter,
        "mode": "chain",
        "prompts": prompts,
        "prompts_hash": "f00d1234",
        "prompt_count": 7,
        "template_hash": "beef5678",
        "thinking": None,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 3,
        "batch_size": 1,
        "max_new_tokens": 64,
        "draft_length": 3,
        "emitted_length": {"micro": 2.718, "macro": 2.6, "low": 2.51, "high": 2.93, "non_looping": 2.44},
        "loop_share": 0.14,
        "plain_loop_share": 0.14,
        "acceptance": {"conditional": [0.9, 0.8, None], "unconditional": [0.9, 0.72, 0.5]},
        "tokens": 400,
        "rounds": 150,
        "tokens_per_second": 123.4,
        "plain_tokens_per_second": 61.7,
        "speedup": 2.0,
        "seconds": {"draft": 1.0, "verify": 2.5, "other": 0.5},
        "prefill_seconds": 0.2,
        "identical": True,
        "identical_share": 1.0,
    }
    return run | changes


ENVIRONMENT = {"torch": "2.11.0", "device": "Test CPU, 4 cores", "dtype": "float32"}


def results(*runs: dict[str, Any]) -> Results:
    return Results([read_run(run, "run") for run in runs], ENVIRONMENT)


def step(number: int, loss: float = 1.5) -> dict[str, Any]:
    return {
        "step": number,
        "steps": 40,
        "loss": loss,
        "denominator": {"weights": 128.0},
        "gradient_norm": 0.7,
        "learning_rate": 1e-3,
        "cross_entropy": 2.25,
        "accuracy": [0.6, 0.5, 0.4],
        "reached": [0.6, 0.3, 0.1],
        "weights": [1.0, 0.7, 0.35],
    }


def evaluation(number: int, length: float) -> dict[str, Any]:
    by_set = {"demo:math": length + 0.25, "demo:chat": length - 0.25}
    return {"step": number, "emitted_length": length, "emitted_length_by_set": by_set}


RECORDS = [evaluation(0, 1.01), step(10), evaluation(10, 1.87), step(20, 1.25), evaluation(20, 1.79)]


def run_directory(parent: Path, name: str) -> Path:
    directory = parent / name
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in RECORDS), encoding="utf-8")
    (directory / "config.yaml").write_text("method: <dflash>\n", encoding="utf-8")
    return directory


def results_file(directory: Path, *runs: dict[str, Any]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "results.json"
    path.write_text(json.dumps({"runs": runs, "environment": ENVIRONMENT}), encoding="utf-8")
    return path


def without_plotly(page: Path) -> str:
    """The page but for plotly.js, whose code names addresses it only uses when asked for maps or credits."""
    text, library = page.read_text(encoding="utf-8"), get_plotlyjs()
    assert text.count(library) == 1
    return text.replace(library, "")


def figures(html: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)]


def test_page_of_results_and_run_together_is_self_contained(tmp_path: Path) -> None:
    run = run_directory(tmp_path, "my-run")
    measured = results_file(tmp_path / "measured", result("demo:a"), result("demo:b", speedup=1.37))
    out = tmp_path / "new" / "page.html"
    write_report([run, measured], out)
    page = without_plotly(out)
    assert not re.search(r"http|(src|href)=[\"']?//|@import|url\(", page)
    assert "my-run: weights by draft position" in page and "measured: Speed-up" in page
    assert "method: &lt;dflash&gt;" in page
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_directory_with_results_and_metrics_shows_both(tmp_path: Path) -> None:
    run = run_directory(tmp_path, "both")
    results_file(run, result("demo:a"))
    write_report([run], tmp_path / "page.html")
    page = without_plotly(tmp_path / "page.html")
    assert "<h2>Results</h2>" in page and "<h2>both: loss</h2>" in page


def test_runs_of_one_name_stay_apart_and_are_compared(tmp_path: Path) -> None:
    runs = [run_directory(tmp_path / parent, "run") for parent in ("first", "second")]
    write_report(runs, tmp_path / "page.html")
    page = without_plotly(tmp_path / "page.html")
    assert [trace["name"] for trace in figures(page)[0]["data"]] == [str(run) for run in runs]


def test_results_table_and_settings_hold_the_figures() -> None:
    against = {"drafter": "demo:a", "mode": "chain", "emitted_length_difference": 0.31, "low": 0.12, "high": 0.52}
    second = result("demo:b", against_first=against, identical=False, identical_share=0.857, speedup=None)
    html = "".join(section.html for section in results_sections(results(result("demo:a"), second)))
    for text in (
        "2.72 (2.51 to 2.93)",
        "2.44",
        "14%",
        "61.7",
        "123.4",
        "2.00",
        "100.0%",
        "85.7%",
        "+0.31",
        "+0.12 to +0.52",
    ):
        assert text in html
    for text in (
        "f00d1234",
        "beef5678",
        "Test CPU, 4 cores",
        "2.11.0",
        "float32",
        "its own token of each round included",
    ):
        assert text in html


def test_result_charts_show_what_was_measured() -> None:
    runs = [result(d, p) for p in ("demo:math", "demo:chat") for d in ("demo:a", "demo:b")]
    html = "".join(section.html for section in results_sections(results(*runs)))
    speedups, math, _, times = figures(html)
    assert [(t["name"], t["x"], t["y"]) for t in speedups["data"]] == [
        (name, ["demo:math", "demo:chat"], [2.0, 2.0]) for name in ("demo:a", "demo:b")
    ]
    assert [t["name"] for t in math["data"]][:2] == ["demo:a, conditional", "demo:a, unconditional"]
    assert [t["y"] for t in math["data"]][:2] == [[0.9, 0.8, None], [0.9, 0.72, 0.5]]
    assert [(t["name"], t["x"][0]) for t in times["data"]] == [("draft", 0.25), ("verify", 0.625), ("other", 0.125)]


def test_runs_that_differ_in_a_setting_get_bars_of_their_own() -> None:
    runs = [result("demo:a"), result("demo:a", temperature=1.0, identical=None, identical_share=None)]
    html = "".join(section.html for section in results_sections(results(*runs)))
    assert [t["name"] for t in figures(html)[0]["data"]] == ["demo:a T=0", "demo:a T=1"]
    assert ">-</td>" in html


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"acceptance_rule": "block"}, ["demo:a", "demo:a block"]),
        ({"acceptance_rule": "block", "draft_length": 2}, ["demo:a K=3", "demo:a K=2 block"]),
        ({"thinking": True}, ["demo:a", "demo:a thinking"]),
        ({"date": "2026-11-22"}, ["demo:a", "demo:a 2026-11-22"]),
        ({"seed": 4}, ["demo:a seed 3", "demo:a seed 4"]),
        ({"prompts_hash": "other"}, ["demo:a", "demo:a (2)"]),
    ],
)
def test_no_run_hides_another_in_a_chart(changes: dict[str, Any], names: list[str]) -> None:
    runs = [result("demo:a"), result("demo:a", speedup=3.0, **changes)]
    speedup, *_, times = figures("".join(section.html for section in results_sections(results(*runs))))
    assert [(t["name"], t["y"]) for t in speedup["data"]] == list(zip(names, ([2.0], [3.0]), strict=True))
    assert times["data"][0]["y"] == [f"{name}<br>demo:math" for name in names]


def test_settings_name_the_rule_the_thinking_switch_and_the_day() -> None:
    runs = [result("demo:a"), result("demo:a", acceptance_rule="block", thinking=False, date="2026-11-22")]
    html = results_sections(results(*runs))[-1].html
    for text in ("chain, block", "the template's default, False", "today, 2026-11-22"):
        assert f">{escape(text)}</td>" in html


def test_acceptance_counts_the_rounds_that_drafted_that_far() -> None:
    runs = results(result("demo:a", adaptive=True))
    assert "Unconditional: of all rounds that drafted that far." in results_sections(runs)[2].html
    assert str(acceptance_table(runs.runs).title).endswith("of all rounds that drafted that far")


def test_training_sections_follow_every_position() -> None:
    sections = training_sections(RECORDS, "dpace")
    titles = [section.title for section in sections]
    assert titles == [f"dpace: {t}" for t in ("emitted length", "loss", "weights by draft position")] + [
        "dpace: reached by draft position"
    ]
    assert "Best 1.87 at step 10, last 1.79 at step 20" in sections[0].html
    lengths = figures(sections[0].html)[0]["data"]
    assert [t["name"] for t in lengths] == ["mean", "demo:math", "demo:chat"] and lengths[0]["y"] == [1.01, 1.87, 1.79]
    assert [t["y"] for t in figures(sections[1].html)[0]["data"]] == [[1.5, 1.25]]
    assert [t["y"] for t in figures(sections[2].html)[0]["data"]] == [[1.0, 1.0], [0.7, 0.7], [0.35, 0.35]]
    assert [t["y"][0] for t in figures(sections[3].html)[0]["data"]] == [0.6, 0.3, 0.1]


def test_long_runs_are_averaged() -> None:
    section = training_sections([step(n, float(n)) for n in range(1, 1001)], "long")[0]
    trace = figures(section.html)[0]["data"][0]
    assert len(trace["x"]) <= 400 and trace["x"][-1] == 1000 and trace["y"][0] == 2.0
    assert "mean of 3 logged steps" in section.html


def test_steps_repeated_after_resuming_count_once() -> None:
    records = [step(10), step(20), step(30, 9.0), evaluation(30, 2.0), step(20, 1.1), step(25, 1.0)]
    assert [(r["step"], r["loss"]) for r in kept(records, "loss")] == [(10, 1.5), (20, 1.1), (25, 1.0)]


def test_a_log_of_several_runs_counts_on() -> None:
    first = [step(20), evaluation(20, 1.5), step(40), evaluation(40, 2.0) | {"steps": 40}]
    records = [*first, evaluation(0, 1.8), step(20, 1.0), step(40, 0.9), evaluation(40, 2.5)]
    assert [(r["step"], r["loss"]) for r in kept(records, "loss")] == [(20, 1.5), (40, 1.5), (60, 1.0), (80, 0.9)]
    lengths = [(r["step"], r["emitted_length"]) for r in kept(records, "emitted_length")]
    assert lengths == [(20, 1.5), (40, 2.0), (40, 1.8), (80, 2.5)]


def test_rounds_are_coloured_and_escaped(tmp_path: Path) -> None:
    first, tree = RoundPiece("", "So", ""), RoundPiece("\nnext", "</div>", "", drafted=6, kept=1)
    pieces = [first, RoundPiece("a  <b>", "&", 'no "good"', drafted=4, kept=2), tree]
    section = rounds_section("Answer <1>", "<script>alert(1)</script>", pieces, "x < y")
    assert (
        '<span class="r0" title="round 1: 4 drafted, 2 kept, rejected: no &quot;good&quot;">a  &lt;b&gt;<u>&amp;</u>'
        in section.html
    )
    assert '<span class="rnone" title="came with the reading of the prompt"><u>So</u></span>' in section.html
    assert '<span class="r1" title="round 2: 6 drafted, 1 kept">\nnext' in section.html
    assert "<del>no &quot;good&quot;</del>" in section.html and "\nnext<u>&lt;/div&gt;</u>" in section.html
    write_page("A & B", [section], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "<h2>Answer &lt;1&gt;</h2>" in page and "<title>A &amp; B</title>" in page and "x &lt; y" in page


def test_names_cannot_break_out_of_a_chart(tmp_path: Path) -> None:
    path = results_file(tmp_path, result("</script><script>alert(1)</script>"))
    write_report([path], tmp_path / "page.html")
    assert "<script>alert" not in without_plotly(tmp_path / "page.html")


def test_run_that_is_still_writing_is_read(tmp_path: Path) -> None:
    run = run_directory(tmp_path, "going")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 30, "lo')
    write_report([run], tmp_path / "page.html")
    assert "last 1.79 at step 20" in without_plotly(tmp_path / "page.html")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("results.json", "{", "is not JSON"),
        ("results.json", '{"runs": []}', "empty"),
        ("results.json", "[]", "no list of `runs`"),
        ("results.json", '{"runs": [{"drafter": "a"}]}', "lacks acceptance"),
        ("metrics.jsonl", "", "holds no record"),
        ("metrics.jsonl", "hello\n{}\n", "line 1"),
        ("metrics.jsonl", '{"step": 1, "loss": 2.0}\n', "line 1"),
        ("notes.txt", "hello", "holds no run or results"),
    ],
)
def test_wrong_contents_are_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    directory = tmp_path / "wrong"
    directory.mkdir()
    (directory / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=complaint) as caught:
        write_report([directory], tmp_path / "page.html")
    assert str(directory) in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_wrong_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing does not exist"):
        write_report([tmp_path / "missing"], tmp_path / "page.html")
    text = tmp_path / "notes.txt"
    text.write_text("hello", encoding="utf-8")
    with pytest.raises(UserError, match=r"notes\.txt holds no run or results"):
        write_report([text], tmp_path / "page.html")
    with pytest.raises(UserError, match="nothing to report"):
        write_report([], tmp_path / "page.html")
    with pytest.raises(UserError, match="cannot be written"):
        write_page("title", [PageSection("a", "b")], tmp_path)
