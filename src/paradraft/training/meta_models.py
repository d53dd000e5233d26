"""Models without weights: built from config.json on the "meta" device, so that they can be counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ..drafters import DRAFTERS
from ..drafters.dflash_config import default_feature_layers
from ..drafters.language_model import starting_model
from ..drafters.pard2 import default_layers
from ..errors import UserError, first_line
from ..models import Target
from ..models.chat import load_tokenizer
from ..models.names import drafter_directory, target_name
from .config import RunConfig
from .estimate import Model


class Sketch(Target):
    """A target without weights: enough for drafters to be built and counted, and to render text."""

    def _check_head(self) -> None:
        """There are no weights to check."""


def read_sizes(name: str, trust_remote_code: bool) -> Any:
    """config.json of a directory or a Hugging Face id; weights are not needed."""
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UserError(
            f"config.json of {name} cannot be read ({first_line(error)}); give a directory that holds it"
        ) from None


def sketch_target(config: RunConfig) -> Sketch:
    section = config.target
    name = target_name(section.model)
    sizes = read_sizes(name, section.trust_remote_code)
    model = sketch_model(name, sizes, section.trust_remote_code)
    tokenizer = tokenizer_of(name, section.trust_remote_code)
    return Sketch(model, tokenizer, section.model, config.data.thinking, config.data.date)


def sketch_model(name: str, sizes: Any, trust_remote_code: bool = False) -> Any:
    """The causal language model of these sizes, without memory for its weights."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(sizes, trust_remote_code=trust_remote_code)
    except Exception as error:  # of as many kinds as there are architectures
        raise UserError(
            f"{name} is no causal language model that Transformers can build: {first_line(error)}"
        ) from None


def tokenizer_of(name: str, trust_remote_code: bool) -> Any:
    """None where there is none: config.json alone is enough for sizes."""
    try:
        return load_tokenizer(name, trust_remote_code)
    except UserError:
        return None


def sketch_drafter(config: RunConfig, target: Sketch) -> Model:
    """Sizes of the drafter that a run would train; a mask's own embedding, where one is added, is left out."""
    section: Any = config.drafter
    fresh = section.model_copy(update={"init_from": None})
    if section.kind == "dflash":
        with torch.device("meta"):
            drafter = DRAFTERS["dflash"].create(fresh, target)
        sizes = model_sizes(target.config, parameter_counts(drafter))
        return replace(sizes, layers=section.layers, vocabulary=target.vocabulary_size)
    if section.init_from is None:
        with torch.device("meta"):
            model: Any = starting_model(fresh, target)
    else:
        start = section.init_from
        if start.startswith("demo:"):
            start = str(drafter_directory(start))
        model = sketch_model(start, read_sizes(start, False))  # of a Hugging Face id config.json alone is fetched
    total, matrices = parameter_counts(model)
    own = model.config.get_text_config()
    projection = feature_count(section, len(target.layers)) * target.hidden_size * own.hidden_size
    return model_sizes(own, (total + projection, matrices + projection))


def feature_count(section: Any, target_layers: int) -> int:
    """How many layers of the target a drafter reads."""
    if section.kind not in ("dflash", "pard2"):
        return 0
    if section.feature_layers != "auto":
        return len(section.feature_layers)
    if section.kind == "pard2":
        return len(default_layers(target_layers))
    return len(default_feature_layers(section.layers, target_layers))


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """All parameters, and those that Muon would train."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
    return sum(p.numel() for _, p in named), sum(p.numel() for p in matrices)


def model_sizes(config: Any, parameters: tuple[int, int]) -> Model:
    heads = int(config.num_attention_heads)
    return Model(
        parameters=parameters[0],
        matrices=parameters[1],
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        heads=heads,
        key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        intermediate=int(config.intermediate_size),
        vocabulary=int(config.vocab_size),
    )
