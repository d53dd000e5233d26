"""Watching a run: trackers, records on resume, losses that go wrong, requests to stop."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from paradraft.errors import UserError
from paradraft.training.checkpoint import complete_checkpoints, find_checkpoint, torn
from paradraft.training.config import RunConfig
from paradraft.training.loop import Trainer
from paradraft.training.trackers import check_trackers, scalars
from paradraft.training.watch import WINDOW, Progress, Records, StopRequests

from .test_training import config_for, records


def evaluated(config: RunConfig, prompts: Path) -> RunConfig:
    section = {"prompts": [str(prompts)], "every": 2, "max_new_tokens": 8, "batch_size": 2}
    return RunConfig.model_validate(config.model_dump(mode="json") | {"evaluation": section})


def test_what_a_run_can_draw(target_directory: Path, conversations: Path, prompts: Path, tmp_path: Path) -> None:
    Trainer(evaluated(config_for(target_directory, conversations, tmp_path / "run", max_steps=4), prompts)).run()
    assert all(len(weights) == 3 for weights in records(tmp_path / "run", "weights"))
    by_set = records(tmp_path / "run", "acceptance_by_set")
    assert len(by_set) == 3  # at the start, and after steps 2 and 4
    for acceptance in by_set:
        (shares,) = acceptance.values()
        assert len(shares["conditional"]) == len(shares["unconditional"]) == 3
        assert all(share is None or 0 <= share <= 1 for share in shares["unconditional"])


def test_scalars_are_flat_numbers() -> None:
    record = {"step": 3, "steps": 9, "time": 1.0, "loss": 2, "weights": [0.5, None], "emitted": {"a/b": 1.5}, "x": "y"}
    assert scalars(record) == {"loss": 2.0, "weights/1": 0.5, "emitted/a/b": 1.5}


def test_tensorboard_goes_on_behind_the_checkpoint(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = config_for(target_directory, conversations, tmp_path / "run", trackers=["tensorboard"], save_every=3)
    first = Trainer(config)
    first.report = lambda record: os.kill(os.getpid(), signal.SIGINT) if record["step"] == 4 else None
    with pytest.raises(KeyboardInterrupt):
        first.run()
    Trainer(config).run()
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    losses = records(tmp_path / "run", "loss")
    assert [found[step] for step in range(1, 9)] == pytest.approx(losses, rel=1e-6)
    assert {"weights/1", "accuracy/3", "gradient_norm"} <= set(events.Tags()["scalars"])


def test_wandb_stays_on_this_machine_when_offline(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    Trainer(config_for(target_directory, conversations, tmp_path / "run", trackers=["wandb"], max_steps=2)).run()
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert log.stat().st_size > 0


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paradraft.training.trackers.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb, which is not installed: pip install"):
        check_trackers(["wandb"])


def test_records_beyond_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)] + ['{"step": 4, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    Records(tmp_path, 2, []).write({"step": 3, "loss": 2.0})
    assert records(tmp_path, "loss") == [1.0, 1.0, 2.0]


def test_a_torn_checkpoint_is_skipped_with_a_message(
    target_directory: Path, conversations: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run", save_every=2, keep_checkpoints=4)
    Trainer(config).run()
    checkpoints = complete_checkpoints(tmp_path / "run" / "checkpoints")
    with (checkpoints[3] / "optimizer.pt").open("r+b") as file:
        file.truncate(100)
    (checkpoints[2] / "COMPLETE").unlink()
    (checkpoints[1] / "COMPLETE").write_text('{"model.saf')
    with caplog.at_level(logging.WARNING):
        assert find_checkpoint(tmp_path / "run", "auto") == checkpoints[0]
    for path, reason in ((3, "optimizer.pt is missing or cut off"), (2, "no COMPLETE marker"), (1, "marker is cut")):
        assert reason in torn(checkpoints[path])
        assert any(str(checkpoints[path]) in message and reason in message for message in caplog.messages)
    with pytest.raises(UserError, match="missing or incomplete"):
        find_checkpoint(tmp_path / "run", str(checkpoints[3]))


@pytest.mark.parametrize("name", ["optimizer.pt", "progress.json"])
def test_a_damaged_checkpoint_is_named(name: str, target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run")
    Trainer(config).run()
    path = tmp_path / "run" / "checkpoints" / "step-8" / name
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"step-8 is damaged .*remove it"):
        Trainer(config)


@pytest.mark.parametrize("cut", ["", "3", "[1]"])
def test_a_marker_that_lists_no_files_is_torn(cut: str, tmp_path: Path) -> None:
    (tmp_path / "COMPLETE").write_text(cut)
    assert "marker is cut off" in torn(tmp_path)


def test_starting_over_leaves_no_drafter_of_the_old_run(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run")
    Trainer(config).run()
    again = Trainer(config, "never")
    again.report = lambda record: pytest.fail("stop") if record["step"] == 5 else None
    with pytest.raises(pytest.fail.Exception):
        again.run()
    assert not (tmp_path / "run" / "drafter").exists()
    assert not (tmp_path / "run" / "checkpoints" / "step-4" / "best").exists()


def test_the_best_drafter_comes_back_with_the_checkpoint(
    target_directory: Path, conversations: Path, prompts: Path, tmp_path: Path
) -> None:
    config = evaluated(config_for(target_directory, conversations, tmp_path / "run", save_every=4), prompts)
    Trainer(config).run()
    run = tmp_path / "run"
    earlier = run / "checkpoints" / "step-4"
    kept = (earlier / "best" / "model.safetensors").read_bytes()
    (run / "drafter" / "model.safetensors").unlink()  # what a kill at the worst moment may leave
    short = RunConfig.model_validate(
        config.model_dump() | {"training": {**config.training.model_dump(), "max_steps": 4}}
    )
    Trainer(short, str(earlier)).run()
    assert (run / "drafter" / "model.safetensors").read_bytes() == kept


def test_divergence_names_the_step_and_the_way_back(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"max_steps": 80, "save_every": 10, "keep_checkpoints": 8}
    trainer = Trainer(config_for(target_directory, conversations, tmp_path / "run", **settings, divergence=0.5))
    steps = trainer.train_step

    def derailed(indices: Any) -> dict[str, Any]:
        if trainer.progress.step == 30:
            with torch.no_grad():
                for parameter in trainer.drafter.parameters():
                    parameter.mul_(30.0)
        return steps(indices)

    trainer.train_step = derailed  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"diverges at step 3\d: cross entropy .*go on from .*step-30"):
        trainer.run()


def test_not_a_number_names_the_last_good_checkpoint(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    trainer = Trainer(config_for(target_directory, conversations, tmp_path / "run", save_every=2))
    trainer.report = lambda record: break_weights(trainer.drafter) if record["step"] == 5 else None
    with pytest.raises(UserError, match=r"no longer finite at step 6 .*go on from .*step-4 \(--resume\)"):
        trainer.run()
    assert Trainer(trainer.config).progress.step == 4


def break_weights(drafter: torch.nn.Module) -> None:
    with torch.no_grad():
        next(drafter.parameters()).fill_(float("nan"))


def test_a_rise_is_measured_against_the_lowest_mean() -> None:
    progress = Progress()
    for step in range(3 * WINDOW):
        progress.step = step
        assert not progress.diverged(5.0 - step / (3 * WINDOW), 1.0)
    assert not any(progress.diverged(9.0, None) for _ in range(WINDOW))  # switched off
    assert progress.diverged(9.0, 1.0)


def test_the_first_request_waits_and_the_second_stops() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with StopRequests() as stop:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Recorder:
    """A tracker that remembers whether it was closed."""

    def __init__(self) -> None:
        self.finished = False

    def log(self, values: dict[str, float], step: int) -> None: ...
    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize("end", ["interruption", "not a number", "the last step"])
def test_trackers_are_closed_however_a_run_ends(
    end: str, target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr("paradraft.training.loop.open_trackers", lambda config, step: [recorder])
    trainer = Trainer(config_for(target_directory, conversations, tmp_path / "run", max_steps=4))

    def report(record: dict[str, Any]) -> None:
        if record["step"] == 2 and end == "interruption":
            os.kill(os.getpid(), signal.SIGINT)
        if record["step"] == 2 and end == "not a number":
            break_weights(trainer.drafter)

    trainer.report = report
    with contextlib.suppress(KeyboardInterrupt, UserError):
        trainer.run()
    assert recorder.finished and trainer.progress.step == (4 if end == "the last step" else 2)


def test_steps_per_second_leave_evaluation_out(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("paradraft.training.loop.time.perf_counter", lambda: clock[0])

    class Timed(Trainer):
        def train_step(self, indices: Any) -> dict[str, Any]:
            clock[0] += 0.5
            return super().train_step(indices)

        def evaluate(self) -> None:
            clock[0] += 100.0

        def save(self) -> None:
            clock[0] += 10.0

    Timed(config_for(target_directory, conversations, tmp_path / "run", max_steps=4)).run()
    assert records(tmp_path / "run", "steps_per_second") == [2.0] * 4
