"""Commands as a user types them: the help is quick, what works works, mistakes are one sentence and exit code 2."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paradraft import cli
from paradraft.decoding import Engine
from paradraft.drafters import Pard2
from paradraft.errors import UserError
from paradraft.evaluation.lossless import ExactResult
from paradraft.models import Target
from paradraft.text.provenance import fingerprint


def run(*arguments: object) -> str:
    """Run a command in this process; a UserError comes through as itself."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_help_answers_in_a_second() -> None:
    """In processor time, which a busy machine does not stretch; the second call finds caches filled."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "paradraft.cli", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert all(command in done.stdout.decode() for command in cli.COMMANDS)


@pytest.mark.parametrize("command", [*cli.COMMANDS, *(f"data {name}" for name in cli.DATA_COMMANDS)])
def test_help_of_every_command_shows_an_example(command: str) -> None:
    assert f"paradraft {command} " in " ".join(run(*command.split(), "--help").split())


def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "paradraft.cli", "train", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("none.yaml does not exist") and "Traceback" not in done.stderr


def test_how_drafts_are_kept_can_be_chosen(target_directory: Path, drafter_directory: Path) -> None:
    pair = ["--target", target_directory, "--drafter", drafter_directory]
    sampled = ["generate", "the cat", *pair, "--max-new-tokens", "9", "--temperature", "1"]
    for more in (["--acceptance", "block"], ["--tree", 6], ["--tree", 6, "--acceptance", "tree"]):
        run(*sampled, *more)
    assert "kept" in run("generate", "the cat", *pair, "--max-new-tokens", "9", "--tree", 6, "--show-rounds")
    with pytest.raises(UserError, match="acceptance rule 'block' is not one for trees"):
        run(*sampled, "--tree", 6, "--acceptance", "block")
    with pytest.raises(UserError, match=r"acceptance rule 'bloc' is not one for chains .*; use one of chain, block"):
        run("generate", "the cat", *pair, "--acceptance", "bloc")
    with pytest.raises(UserError, match="give a drafter with --drafter"):
        run("generate", "the cat", "--target", target_directory, "--acceptance", "block")


def test_eval_writes_results(target_directory: Path, drafter_directory: Path, prompts: Path, tmp_path: Path) -> None:
    arguments = ["eval", "--target", target_directory, "--drafter", drafter_directory, "--prompts", prompts]
    output = run(*arguments, "--max-new-tokens", 12, "--out", tmp_path / "out")
    assert "plain and drafted on the same prompts" in output and "acceptance by position" in output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (row,) = results["runs"]
    assert row["identical"] is True and row["draft_length"] == 3 and row["prompt_count"] == 3
    assert row["emitted_length"]["micro"] >= 1 and row["speedup"] > 0
    assert len(row["acceptance"]["conditional"]) == 3
    assert row["tokens"] == 4 * 12  # three prompts, one of them with a second turn
    assert set(row["seconds"]) == {"draft", "verify", "other"}
    assert row["adaptive"] is False and 0 < row["mean_draft_length"] <= 3
    assert row["target_fingerprint"] == fingerprint(target_directory) is not None
    assert row["drafter_fingerprint"] == fingerprint(drafter_directory) is not None
    assert {"torch", "transformers", "dtype", "device", "threads"} <= set(results["environment"])
    page = tmp_path / "report.html"
    run("report", tmp_path / "out", "--out", page)
    assert page.stat().st_size > 1_000_000


def test_the_draft_length_may_be_left_to_the_engine(
    target_directory: Path, drafter_directory: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ["--target", target_directory, "--drafter", drafter_directory, "--draft-length", "auto"]
    short = ["--prompts", prompts, "--max-new-tokens", 12]
    assert "K=auto" in run("eval", *pair, *short, "--out", tmp_path / "out")
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert row["adaptive"] is True and row["draft_length"] == 3 and row["mean_draft_length"] <= 3 and row["identical"]
    assert run("generate", *pair, "the cat", "--max-new-tokens", 9)
    monkeypatch.setattr("paradraft.decoding.length.Adaptive.choose", lambda self, rows, *rest: [1] * len(rows))
    assert "passed" in run("verify", *pair, *short, "--temperature", 0)
    with pytest.raises(UserError, match="number of tokens or auto, not 'often'"):
        run("generate", *pair[:-1], "often", "the cat")


def test_bench(target_directory: Path, drafter_directory: Path, prompts: Path, tmp_path: Path) -> None:
    small = ["--batch-sizes", "1,2", "--draft-lengths", "auto,2", "--max-new-tokens", 6, "--repeats", 1]
    pair = ["bench", "--target", target_directory, "--drafter", drafter_directory, "--prompts", prompts, *small]
    output = run(*[part for part in pair if part not in ("--draft-lengths", "auto,2")], "--out", tmp_path)
    assert "K=2" in output and "K=4" not in output and "plain token takes" in output and "not the target" not in output
    toy = ["bench", "--target", "random:toy", *small, "--context", 9]
    output = run(*toy, "--synthetic-acceptance", 0.8, "--json")
    found = json.loads(output[output.index("{") :])["bench"]
    assert [(r["batch_size"], r["way"]) for r in found["runs"]][:4] == [
        (1, "plain"),
        (1, "K=auto"),
        (1, "K=2"),
        (2, "plain"),
    ]
    assert found["synthetic_acceptance"] == 0.8 and found["drafter"] == "random:dflash"
    run("report", tmp_path, "--out", tmp_path / "report.html")
    for arguments, complaint in (
        (toy, "random weights accept nothing"),
        ([*pair, "--draft-lengths", "9"], "outside 1 to 3"),
        ([*pair, "--draft-lengths", "0"], "draft length 0 is outside 1 to 3"),
        ([*pair, "--batch-sizes", "1,x"], "must be whole numbers"),
        ([*pair, "--batch-sizes", "0"], "at least 1, not 0"),
        (["bench", "--target", "random:huge", "--synthetic-acceptance", 0.5], "random weights come in the sizes of"),
    ):
        with pytest.raises(UserError, match=complaint):
            run(*arguments)


def test_both_modes_of_pard2(target_directory: Path, drafter_directory: Path, prompts: Path, tmp_path: Path) -> None:
    target = Target.load(str(target_directory))
    section = Pard2.section(layers=1, draft_length=3)
    Pard2.create(section, target).save_pretrained(tmp_path / "pard2")
    pair = ["--target", target_directory, "--drafter", tmp_path / "pard2", "--prompts", prompts]
    modes = ["--mode", "dependent", "--mode", "independent"]
    output = run("eval", *pair, "--drafter", drafter_directory, *modes, "--max-new-tokens", 8, "--out", tmp_path / "o")
    rows = json.loads((tmp_path / "o" / "results.json").read_text())["runs"]
    assert [row["mode"] for row in rows] == ["dependent", "independent", "dependent"]
    assert all(row["identical"] for row in rows)
    assert "pard2 independent K=3" in output
    run("report", tmp_path / "o", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "pard2 independent K=3" in page and "pard2 independent against" in page
    for mode in ("dependent", "independent"):
        verify = ["verify", *pair, "--mode", mode, "--temperature", 0, "--max-new-tokens", 8]
        assert "passed" in run(*verify)
    with pytest.raises(UserError, match="no drafter given here works in mode 'sideways'"):
        run("eval", *pair, "--mode", "sideways")
    with pytest.raises(UserError, match="works in mode dependent or independent, not 'sideways'"):
        run("verify", *pair, "--mode", "sideways")


def test_export_and_import(target_directory: Path, drafter_directory: Path, tmp_path: Path) -> None:
    asked = ["--target", target_directory]
    assert "25 tensors and draft logits" in run(
        "export", drafter_directory, "--to", "vllm", "--out", tmp_path / "a", *asked
    )
    assert "dflash" in run("import", tmp_path / "a", "--out", tmp_path / "b")
    original = (drafter_directory / "model.safetensors").read_bytes()
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == original
    with pytest.raises(UserError, match="--to 'onnx' is not known; what is: vllm"):
        run("export", drafter_directory, "--to", "onnx", "--out", tmp_path / "c")
    with pytest.raises(UserError, match="--assume 'luck' is not known; what is: bonus-anchor"):
        run("import", tmp_path / "a", "--out", tmp_path / "c", "--assume", "luck")


def test_verify_and_generate(target_directory: Path, drafter_directory: Path, prompts: Path) -> None:
    pair = ["--target", target_directory, "--drafter", drafter_directory]
    for options in (("--temperature", 0), ("--temperature", 0.2, "--samples", 3000)):
        assert "passed" in run("verify", *pair, "--prompts", prompts, "--max-new-tokens", 8, *options)
    output = run("generate", *pair, "the cat", "--max-new-tokens", 9, "--show-rounds")
    assert "9 tokens" in output and "kept" in output


def test_generate_drafts_what_pays_where_that_cannot_change_the_text(
    target_directory: Path, drafter_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    whole = Engine.__init__

    def spy(self: Engine, *arguments: object, **more: object) -> None:
        asked.append(arguments[3])
        whole(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "__init__", spy)
    command = ["generate", "the cat", "--target", target_directory, "--max-new-tokens", 4]
    drafted = [*command, "--drafter", drafter_directory]
    run(*drafted)
    run(*drafted, "--temperature", 1)
    run(*drafted, "--tree", 4)
    run(*drafted, "--draft-length", 2)
    run(*drafted, "--tree", 0)
    assert asked == ["auto", None, None, 2, "auto"]


def test_verify_fails_with_exit_code_1(
    target_directory: Path, drafter_directory: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paradraft.evaluation.lossless.ExactResult.passed", False)
    arguments = ["verify", "--target", target_directory, "--drafter", drafter_directory, "--prompts", prompts]
    command = [str(a) for a in [*arguments, "--temperature", 0, "--max-new-tokens", 4]]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 1 and "FAILED" in result.output


def test_auto_is_checked_at_temperature_0_alone(
    target_directory: Path, drafter_directory: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exact(*arguments: Any, **options: Any) -> ExactResult:
        assert options["draft_length"] == "auto"
        return ExactResult(2, 24, ())

    monkeypatch.setattr("paradraft.evaluation.lossless.check_exact", exact)  # whether drafts pay hangs on the machine
    pair = ["verify", "--target", target_directory, "--drafter", drafter_directory, "--prompts", prompts]
    command = [str(a) for a in [*pair, "--max-new-tokens", 12, "--draft-length", "auto"]]
    said = " ".join(CliRunner().invoke(cli.app, command).output.split())
    assert "temperature 0, float32" in said and "temperature 1 is left out: it samples hundreds of texts" in said
    refused = CliRunner().invoke(cli.app, [*command, "--temperature", "0.7"])
    assert isinstance(refused.exception, UserError) and "give a number" in str(refused.exception)


def test_train_from_a_file_with_overrides(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("drafter: {layers: 1, block_size: 4}\ntraining: {max_steps: 3, batch_size: 2, anchors: 4}\n")
    overrides = [f"target.model={target_directory}", f"data.train=[{conversations}]", f"output={tmp_path / 'run'}"]
    output = run("train", config, *overrides)
    assert "drafter in" in output
    assert "nothing to do" in run("train", config, *overrides)
    assert (tmp_path / "run" / "drafter" / "config.json").is_file()


def test_where_to_write_is_checked_before_the_work(
    target_directory: Path, drafter_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("paradraft.models.Target.load", lambda *_, **__: pytest.fail("a target was loaded"))
    pair = ["--target", target_directory, "--drafter", drafter_directory]
    for arguments, complaint in (
        (["bench", *pair, "--out", tmp_path / "file"], "cannot be made a directory"),
        (["demo", "--target", "demo", "--out", tmp_path], "is a directory; --out takes a file"),
        (["demo", "--target", "demo", "--out", tmp_path / "file" / "x.html"], "cannot be made a directory"),
    ):
        with pytest.raises(UserError, match=complaint):
            run(*arguments)


def test_a_request_may_not_take_for_ever(target_directory: Path) -> None:
    command = ["serve", "--target", str(target_directory), "--timeout", "inf"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 2 and "--timeout" in result.output
