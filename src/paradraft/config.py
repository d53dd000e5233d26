"""The typed configuration of a training run: YAML plus dotted overrides; unknown keys are refused."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError, first_line


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TargetSection(Section):
    model: str = Field("demo", description="directory, Hugging Face id, or `demo`")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, the checkpoint's own on a GPU"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the checkpoint")


class DrafterSection(Section):
    kind: Literal["dflash", "pard", "pard2", "vanilla"] = Field("dflash", description="which drafter")
    layers: int = Field(5, ge=1, description="decoder layers of a fresh drafter")
    hidden_size: int | None = Field(None, ge=8, description="pard, pard2, vanilla: width; null: the target's")
    block_size: int = Field(16, ge=2, description="dflash: slots of a block: the anchor and block_size - 1 drafts")
    draft_length: int = Field(16, ge=1, description="pard, pard2, vanilla: most tokens drafted a round")
    feature_layers: Literal["auto"] | tuple[int, ...] = Field(
        "auto", description="dflash, pard2: 0-based target layers whose outputs are read; auto: as published"
    )
    mask_token: int | None = Field(None, ge=0, description="id of the mask; null finds an unused one")
    init_from: str | None = Field(
        None,
        description="start from these weights: a drafter, or (pard, pard2, vanilla) any causal language model, or "
        "`target`: the target with `layers` of its layers, evenly spread",
    )
    share_embedding: bool = Field(
        False, description="pard, pard2, vanilla: use the target's embedding and head, frozen and not stored"
    )
    vocabulary: int | None = Field(
        None, ge=2, description="propose only so many of the most frequent tokens of the training text; null: all"
    )
    cod_ratio: float = Field(0.7, gt=0, le=1, description="pard, pard2: share of the steps i + 1 kept is ratio^i ...")
    cod_least: float = Field(0.1, ge=0, le=1, description="pard, pard2: ... but at least this")
    feature_scale: float = Field(0.02, gt=0, description="pard2: factor of the projected features")
    feature_dropout: float = Field(0.1, ge=0, le=1, description="pard2: share of sequences trained without features")


class ObjectiveSection(Section):
    token_loss: Literal["ce", "kl", "reverse_kl", "tv", "ce_kd"] = Field(
        "ce", description="loss of one token; ce_kd: ce_weight * CE + kd_weight * KL(target || drafter)"
    )
    ce_weight: float = Field(0.1, ge=0, description="ce_kd")
    kd_weight: float = Field(1.0, ge=0, description="ce_kd")
    weighting: Literal["uniform", "decay", "head", "dpace", "dpace_prefix", "dpace_continuation", "cat"] = Field(
        "dpace", description="weights over the positions of a block"
    )
    alpha: float = Field(0.5, gt=0, le=1, description="D-PACE: smoothing of the confidence")
    gamma: float = Field(7.0, gt=0, description="decay: w = exp(-(k-1)/gamma); 7, 5, 4 for blocks of 16, 10, 8")
    base: float = Field(0.8, gt=0, le=1, description="head: w = base^(k-1)")
    denominator: Literal["auto", "anchors", "tokens", "weights", "sequences"] = Field(
        "auto", description="what the summed loss is divided by; auto: weights for decay, head and cat, else anchors"
    )

    @model_validator(mode="after")
    def check(self) -> ObjectiveSection:
        if self.token_loss == "ce_kd" and self.ce_weight + self.kd_weight == 0:
            raise ValueError("objective.ce_weight and objective.kd_weight are both 0: nothing would be learned")
        return self


class Source(Section):
    source: str = Field(description="file, Hugging Face id, or demo:train, as in data.train")
    weight: float = Field(1.0, gt=0, description="how often each conversation is read a pass; 0.5: half of them")


class DataSection(Section):
    train: tuple[str | Source, ...] = Field(
        ("demo:train",),
        min_length=1,
        description="JSONL (.gz too), Parquet, owner/name[:subset][@split], demo:train, or {source: ..., weight: 2}",
    )
    max_length: int = Field(3072, ge=8, description="tokens of a conversation; longer ones are cut")
    limit: int | None = Field(None, ge=1, description="read only the first so many conversations of each source")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="share of bad records that is left out, not an error")
    thinking: bool | None = Field(None, description="thinking switch of the chat template; null: its own default")
    date: datetime.date | None = Field(None, description="the chat template writes, as 2026-11-22; null: today's")
    packing: bool = Field(False, description="fill rows of max_length with whole conversations; a batch counts rows")
    features: Path | None = Field(None, description="directory of `paradraft data features`; null: computed online")

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(s if isinstance(s, Source) else Source(source=s) for s in self.train)

    @model_validator(mode="after")
    def check(self) -> DataSection:
        if self.packing and self.features is not None:
            raise ValueError("data.packing and data.features exclude each other: stored features are of single texts")
        return self


class TrainingSection(Section):
    epochs: int = Field(6, ge=1, description="passes over the data")
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimiser steps; null: by epochs")
    batch_size: int = Field(4, ge=1, description="conversations a step, over all processes")
    micro_batch_size: int | None = Field(
        None, ge=1, description="conversations a forward; null: all that a process has of a batch"
    )
    sharding: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="several processes: the drafter whole in each, or its weights and optimiser cut in pieces"
    )
    target_sharding: Literal["replicated", "fsdp2"] = Field(
        "replicated", description="several processes: the target whole in each, or its layers cut in pieces"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the matrices, with AdamW for the rest; its rates are larger, about 0.02"
    )
    learning_rate: float = Field(6e-4, gt=0, description="peak of the rate")
    warmup_ratio: float = Field(0.04, ge=0, lt=1, description="share of the steps with a rising rate")
    weight_decay: float = Field(0.0, ge=0)
    anchors: int = Field(512, ge=1, description="anchors sampled per conversation")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward passes; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    compile: bool = Field(False, description="fuse what runs over the whole vocabulary in the objective: torch.compile")
    save_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="older ones are removed")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="beside metrics.jsonl")
    divergence: float | None = Field(
        3.0, gt=0, description="stop when the cross entropy has risen by so many nats above its lowest; null: never"
    )
    seed: int = Field(42, ge=0)


class EvaluationSection(Section):
    prompts: tuple[str, ...] = Field((), description="prompt sets decoded while training; empty: no evaluation")
    every: int = Field(500, ge=1, description="steps between evaluations")
    at_start: bool = Field(True, description="also before the first step")
    limit: int = Field(64, ge=1, description="prompts of each set")
    max_new_tokens: int = Field(128, ge=1)
    batch_size: int = Field(16, ge=1)


class RunConfig(Section):
    """A run, complete: what is trained, on what, how, and where it goes."""

    target: TargetSection = TargetSection()
    drafter: DrafterSection = DrafterSection()
    objective: ObjectiveSection = ObjectiveSection()
    data: DataSection = DataSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    output: Path = Field(Path("runs/run"), description="directory of the run")

    @model_validator(mode="after")
    def resolve(self) -> RunConfig:
        micro = self.training.micro_batch_size
        if micro is not None and micro > self.training.batch_size:
            raise ValueError("training.micro_batch_size is larger than training.batch_size")
        if self.training.sharding == "fsdp2" and self.training.optimizer == "muon":
            raise ValueError("training.optimizer muon needs whole matrices; use training.sharding ddp, or adamw")
        return self

    @property
    def denominator(self) -> str:
        if self.objective.denominator != "auto":
            return self.objective.denominator
        return "weights" if self.objective.weighting in ("decay", "head", "cat") else "anchors"


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read YAML, apply `section.key=value` overrides, check everything."""
    try:
        loaded = OmegaConf.load(path)
        if not isinstance(loaded, DictConfig):
            raise UserError(f"configuration {path} must hold sections (target, drafter, ...), not a list or a value")
        merged = OmegaConf.merge(loaded, OmegaConf.from_dotlist(checked_overrides(overrides)))
        values = OmegaConf.to_container(merged, resolve=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"configuration {path} does not exist") from None
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise UserError(f"configuration {path} cannot be read: {first_line(error)}") from None
    except Exception as error:  # the YAML parser's own errors share no importable base with OmegaConf's
        raise UserError(f"configuration {path} is not valid YAML: {first_line(error)}") from None
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"configuration {path}: {explain(error)}") from None


def checked_overrides(overrides: Sequence[str]) -> list[str]:
    for override in overrides:
        if "=" not in override:
            raise UserError(f"override {override!r} is not of the form section.key=value")
    return list(overrides)


def explain(error: ValidationError) -> str:
    """The first problem in a sentence; an unknown key is answered with the known ones."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = RunConfig.model_fields.get(str(first["loc"][0])) if len(first["loc"]) > 1 else None
        model = section.annotation if section is not None else RunConfig
        fields = getattr(model, "model_fields", {})
        return f"unknown key {place}; known here: {', '.join(fields)}"
    return f"{place or 'the run'}: {first['msg'][0].lower()}{first['msg'][1:]} (got {first['input']!r})"


def dump_config(config: RunConfig) -> str:
    """The complete configuration as YAML that `load_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
