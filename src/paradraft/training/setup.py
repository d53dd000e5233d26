"""From a configuration to the things a run needs: target, drafter, data, objective."""

from __future__ import annotations

from pathlib import Path

import torch

from ..assets import target_name, training_file
from ..config import RunConfig
from ..data.batches import check_supervision, cut
from ..data.conversations import read_conversations
from ..data.render import Rendered, render_conversation
from ..drafters import DRAFTERS, Drafter
from ..errors import UserError
from ..objectives import Objective
from ..objectives.token_losses import LossParameters
from ..objectives.weightings import WeightingParameters
from ..target import Target


def load_target(config: RunConfig) -> Target:
    section = config.target
    return Target.load(target_name(section.model), section.dtype, trust_remote_code=section.trust_remote_code)


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


def load_examples(config: RunConfig, target: Target) -> list[Rendered]:
    """All conversations of the run's files, rendered, cut to length, with something to learn in each."""
    section = config.data
    if target.tokenizer is None:
        raise UserError(f"target {target.name} has no tokenizer; put its tokenizer files beside its weights")
    conversations = [c for name in section.train for c in read_conversations(training_file(name), section.limit)]
    stops = target.stop_tokens
    rendered = [r for messages in conversations for r in render_conversation(target.tokenizer, messages, stops)]
    longest = min(section.max_length, target.context_length)
    return check_supervision([cut(example, longest) for example in rendered], ", ".join(section.train))
