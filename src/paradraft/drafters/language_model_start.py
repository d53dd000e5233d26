"""What a draft language model starts from: other weights, some of the target's own layers, or nothing."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..errors import UserError
from ..models import Target
from ..models.attention import FULL
from ..models.loading import full_tensor, moved
from ..models.names import drafter_directory
from .base import FRESH_LAYERS, check_start
from .directory import read_config
from .language_model import LanguageModelSection, load_language_model, own_settings, own_tensors_of

LAYER = re.compile(r"(.*\blayers\.)(\d+)(\..*)")


def starting_model(section: LanguageModelSection, target: Target) -> PreTrainedModel:
    """The language model a run starts from: `init_from`, or a fresh one of the target's architecture, in float32."""
    if section.init_from == "target":
        return pruned_target(section, target)
    if section.init_from is not None:
        directory = drafter_directory(section.init_from)
        start = load_language_model(directory, target, torch.float32)
        if own_settings(directory).get("share_embedding"):
            fill_embedding(start, directory, target)
        found = start.config.get_text_config()
        check_start(section, {"hidden_size": found.hidden_size, "layers": found.num_hidden_layers})
        return start
    config = full_attention_config(target, range(section.layers or FRESH_LAYERS))
    config.hidden_size = section.hidden_size or target.hidden_size
    config.intermediate_size = config.intermediate_size * config.hidden_size // target.hidden_size
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    loaded: PreTrainedModel = moved(model, target.device)
    return loaded


@torch.no_grad()
def fill_embedding(model: PreTrainedModel, directory: Path, target: Target) -> None:
    """What a drafter that shares the target's embedding does not store: embedding and head. Its mask gets its row."""
    inputs: Any = model.get_input_embeddings()
    outputs: Any = model.get_output_embeddings()
    outputs.weight.copy_(target.output_embedding.weight)
    if outputs.bias is not None:
        outputs.bias.copy_(target.output_embedding.bias)
    inputs.weight.copy_(target.embedding.weight)
    if (mask := own_tensors_of(directory).get("mask_embedding")) is not None:
        inputs.weight[read_config(directory)["pard_token"]] = mask.to(inputs.weight)


def full_attention_config(target: Target, layers: Sequence[int]) -> Any:
    """The target's configuration with these of its layers, all of which see the whole text.

    What the configuration lists layer by layer is taken along: which of SmolLM3's layers rotate positions, for one.
    Where layers with a window rotate by a rule of their own (Gemma 3), they stay of their type, and the window is as
    long as the context.
    """
    config: Any = copy.deepcopy(target.config)
    count = len(target.layers)
    for name, value in vars(target.config).items():
        if "layer" in name and isinstance(value, list) and len(value) == count:
            setattr(config, name, [value[layer % count] for layer in layers])
    config.num_hidden_layers = len(layers)
    if any(isinstance(rule, dict) for rule in (getattr(config, "rope_parameters", None) or {}).values()):
        config.sliding_window = target.context_length
    elif getattr(config, "layer_types", None):
        config.layer_types = [FULL] * len(layers)
    else:
        config.sliding_window = None
    return config


def pruned_target(section: LanguageModelSection, target: Target) -> PreTrainedModel:
    """A copy of the target in float32 with `section.layers` of its layers: one half the first ones, the other the last.

    Of SmolLM2-135M, six such layers learn faster at first than six evenly spread: docs/smollm2.md.
    """
    count, kept = len(target.layers), section.layers or FRESH_LAYERS
    if section.hidden_size not in (target.hidden_size, None) or kept > count:
        raise UserError(
            f"drafter.init_from target keeps the target's width of {target.hidden_size} and at most {count} layers; "
            "leave drafter.hidden_size out and lower drafter.layers"
        )
    ids = [*range(kept - kept // 2), *range(count - kept // 2, count)]
    model: Any = AutoModelForCausalLM.from_config(full_attention_config(target, ids), dtype=torch.float32)
    state = target.model.state_dict()  # of a target that is sharded all processes gather one tensor after the other
    for name in model.state_dict():
        layer = LAYER.fullmatch(name)
        source = name if layer is None else f"{layer[1]}{ids[int(layer[2])]}{layer[3]}"
        model.state_dict()[name].copy_(full_tensor(state[source]))
    loaded: PreTrainedModel = moved(model, target.device)
    return loaded
