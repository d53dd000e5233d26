"""The examples of docs/extending.md, put into a copy of the package as the page says, train and decode losslessly."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "paradraft"
RUN = """
import sys
from pathlib import Path
from paradraft import Engine, Target, load_drafter
from paradraft.training.config import RunConfig
from paradraft.training.loop import Trainer
target, data, out = sys.argv[1:]
config = RunConfig.model_validate({
    "target": {"model": target, "dtype": "float32"},
    "drafter": {"kind": "heads", "draft_length": 3, "vocabulary": 20},
    "objective": {"weighting": "survival_squared", "alpha": 0.3},
    "data": {"train": [data], "max_length": 64},
    "training": {"max_steps": 8, "batch_size": 4, "learning_rate": 0.02},
    "output": out,
})
losses = []
Trainer(config, report=lambda record: losses.append(record.get("loss"))).run()
loaded = Target.load(target)
drafter = load_drafter(Path(out) / "drafter", loaded)
prompts = [[5, 6, 7], [9, 8]]
plain, drafted = (Engine(loaded, d).generate(prompts, 12) for d in (None, drafter))
assert [g.tokens for g in plain] == [g.tokens for g in drafted]
from paradraft.commands.train import print_plan
from paradraft.errors import UserError
from paradraft.interchange.contracts import facts_of, verdicts
from paradraft.interchange.exchange import export
print_plan(config)
reads = {v.engine.split()[0]: (v.reads, v.why) for v in verdicts(facts_of(str(Path(out) / "drafter"), target))}
assert reads["paradraft"][0] and all("writes no drafters of this kind" in why for ok, why in reads.values() if not ok)
assert len(reads) == 5
try:
    export(str(Path(out) / "drafter"), "vllm", Path(out) / "served")
except UserError as error:
    assert "knows no other layout for drafters of kind heads" in str(error)
print(drafter.kind, len(drafter.vocabulary), sum(len(g.rounds) for g in drafted))
"""


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.S)


def test_the_examples_are_short() -> None:
    weighting, drafter = examples()
    assert len(weighting.splitlines()) < 60
    code = [line for line in drafter.splitlines() if line.strip() and not re.match(r"from |import ", line)]
    assert len(code) < 60


def test_a_weighting_and_a_drafter_are_one_piece_and_one_entry(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    weighting, drafter = examples()
    copy = tmp_path / "src" / "paradraft"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    (copy / "drafters" / "heads.py").write_text(drafter, encoding="utf-8")
    init = copy / "drafters" / "__init__.py"
    text = init.read_text(encoding="utf-8").replace(' "dflash": DFlash,', ' "heads": Heads,\n    "dflash": DFlash,', 1)
    init.write_text(
        text.replace("from .pard import", "from .heads import Heads\nfrom .pard import", 1), encoding="utf-8"
    )
    with (copy / "objectives" / "weightings.py").open("a", encoding="utf-8") as file:
        file.write("\n\n" + weighting)
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(target_directory), str(conversations), str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-3:-1] == ["heads", "20"]
    assert json.loads((tmp_path / "run" / "drafter" / "config.json").read_text())["draft_vocab_size"] == 20
