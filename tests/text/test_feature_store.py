"""Features on disk: priced first, whole or unfinished, checked before they are trained on, equal to the online ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from paradraft.commands.features import features
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.numbers import duration, size
from paradraft.text import features as writing
from paradraft.text.batches import collate
from paradraft.text.feature_store import FeatureStore, dequantize, plan_shards, quantize
from paradraft.training.config import RunConfig, dump_config, load_config
from paradraft.training.loop import Trainer
from paradraft.training.setup import load_examples

from ..conftest import drafter_values
from ..training.test_training import config_for, records, weights

LAYERS = (0, 1, 3)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SHARD_BYTES", 20_000)


def write(target: Path, data: Path, out: Path, layers: Sequence[int] = LAYERS, **changes: Any) -> None:
    """`paradraft data features` on texts cut at 100 tokens."""
    named = ",".join(map(str, layers))
    features([str(data)], out, str(target), **({"layers": named, "max_length": 100} | changes))


def test_eight_bits_are_within_half_a_step() -> None:
    features = torch.randn(7, 3 * 16) * torch.tensor([0.01, 1.0, 300.0]).repeat_interleave(16)
    features[3] = 0
    codes, scales = quantize(features, 3)
    assert codes.dtype == torch.int8 and codes.shape == features.shape and scales.shape == (7, 3)
    error = (dequantize(codes, scales) - features).abs().unflatten(-1, (3, 16)).amax(-1)
    assert bool((error <= scales * 0.5001).all()) and not dequantize(codes, scales)[3].any()


def test_shards_hold_whole_examples_in_order() -> None:
    assert plan_shards([3, 3, 9, 1, 1, 5], 10, 60) == [[0, 1], [2], [3, 4], [5]]
    assert plan_shards([100], 10, 60) == [[0]]


def test_what_is_read_is_what_the_target_computes(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    target = Target.load(str(target_directory))
    config = config_for(target_directory, conversations, tmp_path / "run")
    examples = load_examples(config, target).examples
    batch = collate([examples[i] for i in (5, 17, 2)])
    online = target.features(batch.input_ids, batch.document_ids, (3, 1))
    online[batch.document_ids < 0] = 0
    for storage, tolerance in (("bfloat16", 1 / 200), ("int8", 1 / 100)):
        out = tmp_path / storage
        write(target_directory, conversations, out, storage=storage)
        store = FeatureStore(out)
        assert len(list(out.glob("*.safetensors"))) > 1 and len(store.places) == len(examples)
        stored = store.batch((5, 17, 2), (3, 1), batch.input_ids.shape[1]).float()
        assert float((stored - online).abs().max()) < tolerance * float(online.abs().max())
        written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
        tokens = sum(len(example.input_ids) for example in examples)
        assert 1 <= written / (tokens * store.identity.bytes_per_token) < 1.1


def test_the_estimate_writes_nothing(
    target_directory: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(target_directory, conversations, tmp_path / "out", estimate=True)
    shown = capsys.readouterr().out
    for expected in ("bytes per token", "192", "total", "free on this disk", "tokens/s", "Online training"):
        assert expected in shown
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"would need 153\.0 GB, its disk has 100\.0 MB free: train online"):
        writing.Estimate(1, 50_000_000, 3000, 1.0, 100_000_000).check_disk(tmp_path)
    assert (size(999), size(2.5e6), duration(90), duration(600), duration(36000)) == (
        "999.0 B",
        "2.5 MB",
        "90 s",
        "10 min",
        "10.0 h",
    )


def test_an_interrupted_store_is_unfinished_and_goes_on(
    target_directory: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    write(target_directory, conversations, whole)
    write(target_directory, conversations, halved)
    (halved / "manifest.json").unlink()
    (halved / "shard-00001.safetensors").unlink()
    torn = halved / "shard-00000.safetensors"
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(UserError, match="holds no finished feature store"):
        FeatureStore(halved)
    capsys.readouterr()
    write(target_directory, conversations, halved)
    assert "continuing: " in capsys.readouterr().out
    for path in whole.iterdir():
        assert path.read_bytes() == (halved / path.name).read_bytes()
    write(target_directory, conversations, halved)
    assert "nothing to do" in capsys.readouterr().out


def test_what_is_written_already_needs_no_room(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted run goes on where the disk holds the rest, though not the whole once more."""
    out = tmp_path / "out"
    write(target_directory, conversations, out)
    whole = sum(path.stat().st_size for path in out.iterdir())
    (out / "manifest.json").unlink()
    (out / "shard-00001.safetensors").unlink()
    free = shutil.disk_usage(out)._replace(free=whole // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match="train online"):
        write(target_directory, conversations, tmp_path / "another")
    assert not (tmp_path / "another").exists()
    write(target_directory, conversations, out)
    assert FeatureStore(out).places


def test_a_finished_store_is_priced_and_compared(
    target_directory: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    write(target_directory, conversations, out)
    with pytest.raises(UserError, match=r"another dtype \(bfloat16, the run has int8\)"):
        write(target_directory, conversations, out, storage="int8")
    capsys.readouterr()
    write(target_directory, conversations, out, storage="int8", estimate=True)
    assert "bytes per token" in capsys.readouterr().out


def test_a_store_of_something_else_is_refused(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(target_directory, conversations, out)
    store = FeatureStore(out)
    held = store.identity
    store.check(replace(held, layers=(1,)))
    for changes, complaint in (
        ({"target": replace(held.target, fingerprint="another")}, "of another target"),
        ({"layers": (1, 2)}, r"another feature layers \(\(0, 1, 3\), the run has \(1, 2\)\)"),
        ({"template_hash": "x"}, "another template hash"),
        ({"texts": "x"}, "another texts"),
        ({"max_length": 64}, r"another max length \(100, the run has 64\)"),
    ):
        with pytest.raises(UserError, match=complaint):
            store.check(replace(held, **changes))
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({"identity": manifest["identity"]}))
    with pytest.raises(UserError, match="is not what paradraft data features writes"):
        FeatureStore(out)
    (out / "manifest.json").write_text(json.dumps(manifest))
    shard = out / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"shard-00001\.safetensors is missing, damaged or of other features"):
        FeatureStore(out)


def test_training_from_a_store_is_training(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    losses = {}
    for storage in (None, "bfloat16", "int8"):
        out = tmp_path / str(storage)
        config = config_for(target_directory, conversations, tmp_path / f"run-{storage}", max_steps=4)
        layers = Trainer(config).drafter.feature_layers
        if storage is not None:
            write(target_directory, conversations, out, storage=storage, layers=layers)
            config = config.model_copy(update={"data": config.data.model_copy(update={"features": out})})
        trainer = Trainer(config)
        before = weights(trainer.drafter)
        trainer.run()
        assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(trainer.drafter).items())
        losses[storage] = records(config.output, "loss")
    for storage in ("bfloat16", "int8"):
        assert losses[storage] == pytest.approx(losses[None], rel=0.02) and losses[storage] != losses[None]
    shorter = config.data.model_copy(update={"max_length": 50})
    other = config.model_copy(update={"data": shorter, "output": tmp_path / "other"})
    with pytest.raises(UserError, match=r"the features in .* are of another max length"):
        Trainer(other)


@pytest.mark.parametrize("kind", ["dflash", "pard"])
def test_the_targets_distribution_comes_from_a_store_too(
    kind: str, target_directory: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CAT weights and distillation read the final-normed states, which a store keeps as one layer more."""
    made = config_for(target_directory, conversations, tmp_path / "run", max_steps=4).model_dump()
    objective = {"weighting": "cat", "token_loss": "ce_kd"}
    online = RunConfig.model_validate(made | {"objective": objective, "drafter": drafter_values(kind)})
    trainer = Trainer(online)
    layers, last = trainer.drafter.feature_layers, len(trainer.target.layers)
    trainer.run()
    write(target_directory, conversations, tmp_path / "out", layers=(*layers, last))
    stored = online.model_copy(update={"data": online.data.model_copy(update={"features": tmp_path / "out"})})
    stored = stored.model_copy(update={"output": tmp_path / "stored"})
    trainer = Trainer(stored)
    trainer.target._run = None  # type: ignore[assignment, method-assign]  # nothing may read it now
    trainer.run()
    losses = records(online.output, "loss"), records(stored.output, "loss")
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]

    def refused(features: Path) -> None:
        Trainer(stored.model_copy(update={"data": stored.data.model_copy(update={"features": features})}), "never")

    write(target_directory, conversations, tmp_path / "without", layers=layers or (1,))
    with pytest.raises(UserError, match="another feature layers"):
        refused(tmp_path / "without")
    write(target_directory, conversations, tmp_path / "coarse", layers=(*layers, last), storage="int8")
    with pytest.raises(UserError, match="too coarse; write them anew with --storage bfloat16"):
        refused(tmp_path / "coarse")


def test_a_pinned_date_makes_the_same_texts_on_another_day(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    dated = tmp_path / "dated"
    shutil.copytree(target_directory, dated)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(dated)
    tokenizer.chat_template = "{{ strftime_now('%d') }}" + str(tokenizer.chat_template)
    tokenizer.save_pretrained(dated)
    out, day = tmp_path / "out", date(2024, 2, 9)
    write(dated, conversations, out, layers=(1, 2), date=day)
    config = config_for(dated, conversations, tmp_path / "run", max_steps=1)
    config = config.model_copy(update={"drafter": config.drafter.model_copy(update={"feature_layers": (1, 2)})})
    on_the_day = config.data.model_copy(update={"features": out, "date": day})
    written = tmp_path / "config.yaml"
    written.write_text(dump_config(config.model_copy(update={"data": on_the_day})))
    Trainer(load_config(written)).run()
    today = config.data.model_copy(update={"features": out})
    with pytest.raises(UserError, match=r"of another date \(2024-02-09, the run has None\)"):
        Trainer(config.model_copy(update={"data": today, "output": tmp_path / "other"}))
