"""A study trains its cells at equal budget, goes on where it stopped, and compares prompt by prompt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from paradraft import cli
from paradraft.config import load_section
from paradraft.drafters.pard2 import Pard2Section
from paradraft.errors import UserError
from paradraft.training import study as study_module
from paradraft.training.config import dump_config
from paradraft.training.study import Study, StudySection, check_budgets, paired, summary
from tests.training.test_training import config_for

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.fixture
def study_file(target_directory: Path, conversations: Path, prompts: Path, tmp_path: Path) -> Path:
    recipe = tmp_path / "recipe.yaml"
    dflash = config_for(target_directory, conversations, tmp_path / "unused", max_steps=4)
    recipe.write_text(dump_config(dflash))
    other = tmp_path / "pard2.yaml"
    pard2 = Pard2Section(layers=1, draft_length=3, feature_layers=(1,))
    other.write_text(dump_config(dflash.model_copy(update={"drafter": pard2})))
    section: dict[str, Any] = {
        "recipe": str(recipe),
        "cells": {
            "dpace": {},
            "decay": {"set": ["objective.weighting=decay"]},
            "pard2": {"recipe": str(other)},
        },
        "baseline": "decay",
        "seeds": [1, 2],
        "measure": {"prompts": [str(prompts)], "temperatures": [0, 1], "max_new_tokens": 8},
        "output": str(tmp_path / "study"),
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(section))
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, ["study", *map(str, arguments)], env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_every_cell_and_seed_is_measured_once(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "decay, seed 2:" in run(study_file)
    found = json.loads((tmp_path / "study" / "study.json").read_text())
    rows = {(r["cell"], r["mode"], r["temperature"]): r for r in found["rows"]}
    assert len(rows) == 8 and all(r["seeds"] == 2 and r["emitted_length"] >= 1 for r in rows.values())
    assert "difference" not in rows[("decay", "dependent", 0.0)]
    assert (
        rows[("dpace", "dependent", 0.0)]["low"]
        <= rows[("dpace", "dependent", 0.0)]["difference"]
        <= rows[("dpace", "dependent", 0.0)]["high"]
    )
    assert len(found["trials"]) == 6 and all(len(t["measured"][0]["rounds"]) == 3 for t in found["trials"])
    assert "pard2 independent" in (tmp_path / "study" / "study.md").read_text()

    def refuse(*arguments: Any) -> None:
        raise AssertionError("trained again")

    losses = {}
    for name in ("decay-1", "decay-2", "dpace-1"):
        lines = (tmp_path / "study" / "runs" / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = next(json.loads(line)["loss"] for line in lines if '"loss"' in line)
    assert losses["decay-1"] != losses["decay-2"]  # another seed is another run
    measured = found["trials"][0]["measured"][0]
    assert len(measured["looping"]) == 3 and len(measured["prompts_hash"]) == 12
    (tmp_path / "study" / "cells" / "dpace-2.json").unlink()
    monkeypatch.setattr(study_module, "Trainer", refuse)
    with pytest.raises(AssertionError, match="trained again"):
        run(study_file)  # the others are read, the one that is missing would be trained
    with pytest.raises(UserError, match="is of another configuration"):
        run(study_file, "measure.max_new_tokens=9")
    with pytest.raises(UserError, match=r"decay-1\.json is of another configuration"):
        run(study_file, "set=[objective.alpha=0.7]")
    older = tmp_path / "study" / "cells" / "dpace-1.json"
    text = older.read_text()
    assert text.count("  alpha_end: null\\n") == 1
    older.write_text(text.replace("  alpha_end: null\\n", ""))  # of a version that did not know the field
    with pytest.raises(AssertionError, match="trained again"):
        run(study_file)


def test_cells_that_were_measured_on_other_prompts_are_not_compared(study_file: Path, prompts: Path) -> None:
    """The file has the same name, so only its content tells."""
    run(study_file, "seeds=[1]")
    lines = prompts.read_text().splitlines()
    prompts.write_text("\n".join([*lines[:-1], lines[0]]) + "\n")
    with pytest.raises(UserError, match=r"-1\.json was measured on prompts that have changed"):
        run(study_file, "seeds=[1,2]")


def test_cells_of_text_that_has_changed_are_not_compared(study_file: Path, conversations: Path, tmp_path: Path) -> None:
    run(study_file, "seeds=[1]")
    lines = conversations.read_text().splitlines(keepends=True)
    conversations.write_text("".join(lines[1:]))
    run(study_file, "seeds=[1]")  # all cells have read the same text
    (tmp_path / "study" / "cells" / "pard2-1.json").unlink()
    shutil.rmtree(tmp_path / "study" / "runs" / "pard2-1")
    with pytest.raises(UserError, match="a cell that is done was trained on text that has changed"):
        run(study_file, "seeds=[1]")
    (tmp_path / "study" / "cells" / "decay-1.json").unlink()
    shutil.rmtree(tmp_path / "study" / "runs" / "decay-1")
    with pytest.raises(UserError, match=r"dpace-1\.json was trained on text that has changed"):
        run(study_file, "seeds=[1]")  # the first cell is trained anew; the second one is of the old text


def test_a_run_under_another_configuration_is_not_gone_on_with(study_file: Path, tmp_path: Path) -> None:
    run(study_file, "seeds=[1]")
    (tmp_path / "study" / "cells" / "dpace-1.json").unlink()
    with pytest.raises(UserError, match="runs/dpace-1 is of another configuration"):
        run(study_file, "seeds=[1]", "cells.dpace.set=[training.learning_rate=0.001]")


def test_a_study_that_was_stopped_counts_all_its_time(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(trainer: Any) -> None:
        trainer.prepare_output()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(study_module.Trainer, "run", stop)
        assert "stopped" in run(study_file, "seeds=[1]")
    spent = tmp_path / "study" / "runs" / "decay-1" / "seconds.txt"
    spent.write_text("1000")
    section = load_section(StudySection, study_file, ["seeds=[1]"])
    assert Study(section).steps_done("decay", 1) == 0
    run(study_file, "seeds=[1]")
    assert Study(section).steps_done("decay", 1) == 4
    found = json.loads((tmp_path / "study" / "cells" / "decay-1.json").read_text())
    assert 1000 < found["seconds"]["training"] < 1100


def test_a_table_is_there_after_every_cell(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(study_module.Trainer):
        def __init__(self, config: Any, *arguments: Any) -> None:
            if config.output.name == "dpace-1":
                raise KeyboardInterrupt
            super().__init__(config, *arguments)

    monkeypatch.setattr(study_module, "Trainer", Stopped)
    run(study_file)
    assert {row["cell"] for row in json.loads((tmp_path / "study" / "study.json").read_text())["rows"]} == {"decay"}


def test_names_of_cells_and_outputs_may_hold_any_character(study_file: Path, tmp_path: Path) -> None:
    """They are not read as YAML, where `#` begins a comment and `: ` a value."""
    section = yaml.safe_load(study_file.read_text())
    section |= {"output": str(tmp_path / "st #1"), "cells": {"b: 2 #x": {}}, "baseline": "b: 2 #x"}
    study = StudySection.model_validate(section)
    assert study.run_of("b: 2 #x", 1).output == tmp_path / "st #1" / "runs" / "b: 2 #x-1"
    with pytest.raises(ValueError, match="seeds must differ"):
        StudySection.model_validate(section | {"seeds": [1, 2, 1]})


def test_cells_must_have_the_same_budget(study_file: Path) -> None:
    longer = load_section(StudySection, study_file, ["cells.dpace.set=[training.max_steps=5]"])
    with pytest.raises(UserError, match=r"cell dpace has another training\.max_steps than decay"):
        Study(longer)
    shorter = load_section(StudySection, study_file, ["cells.dpace.set=[training.epochs=1]"])
    with pytest.raises(UserError, match=r"cell dpace has another training\.epochs than decay"):
        Study(shorter)
    cut = load_section(StudySection, study_file, ["cells.dpace.set=[data.max_length=9]"])
    with pytest.raises(UserError, match="cell dpace has another target or other text than decay"):
        Study(cut)
    with pytest.raises(UserError, match="baseline must be one of the cells"):
        load_section(StudySection, study_file, ["baseline=nothing"])


def test_differences_are_of_the_same_prompts() -> None:
    rounds = np.array([10.0, 40.0, 5.0])
    slow, fast = (rounds, rounds * 2), (rounds, rounds * 2.5)
    assert paired([slow], [fast]) == pytest.approx((0.5, 0.5, 0.5))  # each prompt gains as much: no doubt is left

    def trial(cell: str, seed: int, factor: float) -> dict[str, Any]:
        measured = {"prompts": "set", "temperature": 0.0, "mode": "", "rounds": rounds.tolist()}
        return {"cell": cell, "seed": seed, "measured": [measured | {"tokens": (rounds * factor).tolist()}]}

    better, base = summary([trial("a", 1, 2.4), trial("b", 1, 2.0), trial("a", 2, 2.6), trial("b", 2, 2.0)], "b")
    assert better["emitted_length"] == pytest.approx(2.5) and better["difference"] == pytest.approx(0.5)
    assert better["spread"] == pytest.approx(np.std([2.4, 2.6], ddof=1)) and base["spread"] == 0


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"baseline": "best"}, "study.yaml: baseline must be one of the cells decay, dpace, pard2$"),
        ({"sedes": [1]}, "unknown key sedes; known here: recipe, set, cells, baseline, seeds, measure, output$"),
        ({"cells": {"decay": {"sett": []}}}, "unknown key cells.decay.sett; known here: recipe, set$"),
        (
            {"cells": {"decay": {"set": ["objective.weightin=decay"]}}},
            "^cell decay: .*unknown key objective.weightin; known here: [a-z0-9_, ]*$",
        ),
    ],
)
def test_what_is_wrong_in_a_study_is_named_in_a_sentence(
    study_file: Path, changed: dict[str, Any], complaint: str
) -> None:
    study_file.write_text(yaml.safe_dump(yaml.safe_load(study_file.read_text()) | changed))
    with pytest.raises(UserError, match=complaint):
        run(study_file)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_committed_studies_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(STUDIES[0].parents[1])
    study = load_section(StudySection, path)
    assert len(check_budgets(study)) == len(study.cells) and f"study studies/{path.name}" in path.read_text()
