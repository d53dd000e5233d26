"""The configuration of a training run: YAML plus dotted overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from ..config import DataSection, EvaluationSection, Section, load_section, one_of
from ..drafters import AnyDrafterSection, DFlashSection
from ..objectives import ANCHOR_WEIGHTINGS, DENOMINATORS, TOKEN_LOSSES, WEIGHTINGS, Objective
from ..objectives.token_losses import TokenLoss
from ..objectives.weightings import Weighting

RECORDS: list[Weighting | TokenLoss] = [*WEIGHTINGS.values(), *TOKEN_LOSSES.values()]
PARAMETERS = {name: parameter for record in RECORDS for name, parameter in record.parameters.items()}


class TargetSection(Section):
    model: str = Field("demo", description="directory, GGUF file, Hugging Face id, `demo` or `smollm2`")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, the checkpoint's own on a GPU"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the checkpoint")


class ObjectiveSection(Section):
    """Beside its own fields, the parameters of the weighting and of the token loss (`PARAMETERS`), by name.

    Parameters of other weightings and losses are ignored, so that a recipe runs with another weighting.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    token_loss: Annotated[str, one_of(TOKEN_LOSSES)] = Field("ce", description="loss of one token")
    weighting: Annotated[str, one_of(WEIGHTINGS)] = Field("dpace", description="weights over the positions of a block")
    denominator: Annotated[str, one_of(("auto", *DENOMINATORS))] = Field(
        "auto", description="what the summed loss is divided by; auto: as the weighting has it"
    )
    anchor_weighting: Annotated[str, one_of(ANCHOR_WEIGHTINGS)] | None = Field(
        None, description="weights over the anchors of a conversation; null: all alike"
    )
    alpha_end: float | None = Field(
        None, description="alpha goes from `alpha` in the first step linearly to this in the last; null: it stays"
    )

    @field_validator("weighting", mode="before")
    @classmethod
    def read_older(cls, value: Any) -> Any:
        """Runs until 2026-11-26 called geometric weights `head`."""
        return "geometric" if value == "head" else value

    @model_validator(mode="after")
    def check(self) -> ObjectiveSection:
        for name, value in (self.model_extra or {}).items():
            if name not in PARAMETERS:
                fields = (*type(self).model_fields, *PARAMETERS)
                raise ValueError(f"unknown key objective.{name}; known here: {', '.join(fields)}")
            PARAMETERS[name].check(f"objective.{name}", value)
        self.objective()
        return self

    def objective(self, compiled: bool = False, own_overlap: bool = False) -> Objective:
        known = {**WEIGHTINGS[self.weighting].parameters, **TOKEN_LOSSES[self.token_loss].parameters}
        given = {name: float(value) for name, value in (self.model_extra or {}).items() if name in known}
        return Objective(
            self.token_loss,
            self.weighting,
            self.denominator,
            given,
            compiled,
            own_overlap,
            self.alpha_end,
            self.anchor_weighting,
        )


class TrainingSection(Section):
    epochs: int = Field(6, ge=1, description="passes over the data")
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimiser steps; null: by epochs")
    batch_size: int = Field(4, ge=1, description="conversations a step, over all processes")
    micro_batch_size: int | None = Field(
        None, ge=1, description="conversations in one forward pass; null: a process runs its part of a batch at once"
    )
    sharding: Literal["ddp", "fsdp2"] = Field(
        "ddp",
        description="several processes: ddp: each holds the whole drafter; fsdp2: a shard of its weights and optimiser",
    )
    target_sharding: Literal["replicated", "fsdp2"] = Field(
        "replicated",
        description="several processes: replicated: each holds the whole target; fsdp2: a shard of its layers",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the matrices, with AdamW for the rest; its rates are larger, about 0.02"
    )
    learning_rate: float = Field(6e-4, gt=0, allow_inf_nan=False, description="peak of the rate")
    warmup_ratio: float = Field(0.04, ge=0, lt=1, description="share of the steps with a rising rate")
    weight_decay: float = Field(0.0, ge=0)
    anchors: int = Field(512, ge=1, description="anchors sampled per conversation; pard, pard2 and vanilla take all")
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


class RunConfig(Section):
    """A run, complete: what is trained, on what, how, and where it goes."""

    target: TargetSection = TargetSection()
    drafter: AnyDrafterSection = DFlashSection()
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

    def make_objective(self) -> Objective:
        """As the run trains with it."""
        return self.objective.objective(self.training.compile, self.drafter.needs_overlap)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read YAML, apply `section.key=value` overrides, check everything."""
    return load_section(RunConfig, path, overrides)


def dump_config(config: RunConfig) -> str:
    """The complete configuration as YAML that `load_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))


def means_the_same(dumped: str, config: RunConfig) -> bool:
    """Whether what `dump_config` wrote is this configuration: fields that it did not know yet have their defaults."""
    try:
        return RunConfig.model_validate(OmegaConf.to_container(OmegaConf.create(dumped))) == config
    except ValidationError:  # of a field that is no more
        return False
