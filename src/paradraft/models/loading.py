"""Causal language models from directories and Hugging Face ids, complete or refused in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..errors import UserError, first_line
from .attention import attention_implementation, refuse_unsupported


def moved(model: Any, device: torch.device | str) -> Any:
    """Transformers' own types of `to` do not know its arguments."""
    return model.to(device)


def load_causal_lm(
    name: str, dtype: torch.dtype | None, what: str, trust_remote_code: bool, without_embedding: bool = False
) -> PreTrainedModel:
    """A complete causal language model of a kind that can be rolled back; `what` names it in errors.

    `dtype` None is the checkpoint's own. `without_embedding`: its embedding and head may be missing. Inside
    `with torch.device("meta")` only config.json is read, and the model has shapes alone.
    """
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise UserError(f"{what} {name}: there is no config.json in it; give a Hugging Face model directory or id")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        refuse_unsupported(config.get_text_config(), None, f"{what} {name}")
        if torch.get_default_device().type == "meta":
            shapes: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=trust_remote_code, **attention_implementation(config)
            )
            return shapes
        with without_load_report() if without_embedding else nullcontext():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype or "auto",
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                **attention_implementation(config),
            )
    except UserError:
        raise
    except Exception as error:  # damaged files surface as errors of many libraries
        raise UserError(f"{what} {name} cannot be loaded: {first_line(error)}") from error
    model: PreTrainedModel = loaded[0]
    shared = embedding_parameters(model) if without_embedding else set()
    expendable = {n for n, p in model.named_parameters(remove_duplicate=False) if p in shared}
    absent = sorted(loaded[1]["missing_keys"] - expendable)
    absent += sorted(str(key) for key in loaded[1]["mismatched_keys"])
    if absent:
        raise UserError(f"{what} {name}: its weights lack {absent[0]}; the checkpoint is incomplete")
    return model


def embedding_parameters(model: PreTrainedModel) -> set[Tensor]:
    """Those of its embedding and of its head, whatever an architecture calls them."""
    modules = model.get_input_embeddings(), model.get_output_embeddings()
    return {parameter for module in modules if module is not None for parameter in module.parameters()}


@contextmanager
def without_load_report() -> Iterator[None]:
    """Transformers warns of missing weights, and calls those that the target shares a corrupt checkpoint."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def full_tensor(value: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes, any other as it is."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value
