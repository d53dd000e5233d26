"""Models on the "meta" device, built from config.json without weights, so that the plan can count their parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ..drafters import DRAFTERS, Drafter
from ..drafters.vocabulary import DraftVocabulary
from ..errors import UserError, first_line
from ..models import Target
from ..models.chat import load_tokenizer
from ..models.names import drafter_directory, found_target, is_shipped
from .config import RunConfig


def meta_model(name: str, trust_remote_code: bool = False) -> Any:
    """The causal language model of a directory or a Hugging Face id, of which config.json alone is read."""
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # of as many kinds as there are architectures
        reason = f"config.json of {name} cannot be read as a causal language model's ({first_line(error)})"
        raise UserError(f"{reason}; give a directory that holds one") from None


def meta_target(config: RunConfig) -> Target:
    """The run's target without weights; it renders text where its tokenizer is at hand."""
    section = config.target
    name = found_target(section.model)
    model = meta_model(name, section.trust_remote_code)
    try:
        tokenizer = load_tokenizer(name, section.trust_remote_code)
    except UserError:
        tokenizer = None
    return Target(model, tokenizer, section.model, config.data.thinking, config.data.date)


def meta_drafter(config: RunConfig, target: Target) -> Drafter:
    """The drafter that a run would train, without weights; an embedding that is added for a mask is left out."""
    section: Any = config.drafter
    start = None if section.init_from == "target" else section.init_from
    known = {"mask_token": 0, "init_from": None if start else section.init_from}.items()
    counted = section.model_copy(update={name: value for name, value in known if hasattr(section, name)})
    with torch.device("meta"):
        drafter: Any = DRAFTERS[section.kind].create(counted, target)
        if section.vocabulary is not None:  # which tokens they are does not matter for their number
            drafter.restrict(DraftVocabulary(torch.arange(section.vocabulary), target.vocabulary_size))
    if start is not None and hasattr(drafter, "model"):  # a language model of the size of the one it starts from
        drafter.model = meta_model(str(drafter_directory(start)) if is_shipped(start) else start)
        if drafter.shares_embedding:
            drafter.drop_embedding()
        if hasattr(drafter, "target_proj"):
            width = drafter.model.config.get_text_config().hidden_size
            drafter.target_proj = nn.Linear(drafter.target_proj.in_features, width, bias=False, device="meta")
    return drafter
