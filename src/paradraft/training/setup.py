"""From a configuration to the things a run needs: target, drafter, data, objective."""

from __future__ import annotations

from pathlib import Path

import torch

from ..assets import target_name
from ..config import RunConfig
from ..data.prepare import Examples, prepare_examples
from ..data.provenance import identify
from ..drafters import DRAFTERS, Drafter
from ..objectives import Objective
from ..objectives.token_losses import LossParameters
from ..objectives.weightings import WeightingParameters
from ..target import Target


def load_target(config: RunConfig) -> Target:
    section = config.target
    target = Target.load(target_name(section.model), section.dtype, trust_remote_code=section.trust_remote_code)
    target.thinking = config.data.thinking  # evaluation asks as the data was rendered
    return target


def make_drafter(config: RunConfig, target: Target, start_from: Path | None) -> Drafter:
    """A drafter in float32, ready to train: from a checkpoint, from `init_from`, or fresh."""
    kind = DRAFTERS[config.drafter.kind]
    if start_from is not None:
        return kind.from_pretrained(start_from, target, torch.float32).train()
    return kind.create(config.drafter, target).train()


def make_objective(config: RunConfig) -> Objective:
    section = config.objective
    parameters = WeightingParameters(alpha=section.alpha, gamma=section.gamma, base=section.base)
    losses = LossParameters(ce=section.ce_weight, kd=section.kd_weight)
    return Objective(section.token_loss, section.weighting, config.denominator, parameters, losses)


def load_examples(config: RunConfig, target: Target) -> Examples:
    """The run's conversations rendered, with something to learn in each, and what is to be said about them."""
    identity = identify(config.target.model)
    return prepare_examples(config.data, target, identity, config.training.seed)
