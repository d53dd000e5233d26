"""What reading and rendering need of a target: tokenizer, stop tokens, context length; no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ..errors import UserError, first_line
from ..models.names import target_name


@dataclass(frozen=True)
class TargetText:
    """The side of a target that deals with text."""

    tokenizer: PreTrainedTokenizerBase
    stop_tokens: frozenset[int]
    context_length: int


def load_text(name: str, trust_remote_code: bool) -> TargetText:
    """By directory, Hugging Face id or `demo`; stop tokens are those that `Target.stop_tokens` has."""
    where = target_name(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code).get_text_config()
        try:
            generation = GenerationConfig.from_pretrained(where)
        except OSError:
            generation = GenerationConfig.from_model_config(config)
    except Exception as error:  # damaged files surface as errors of many libraries
        first = first_line(error)
        raise UserError(f"the tokenizer of target {name} cannot be loaded: {first}") from None
    stops: set[int] = set()
    for found in (generation.eos_token_id, tokenizer.eos_token_id):
        stops.update(found if isinstance(found, list | tuple) else [] if found is None else [found])
    context = int(getattr(config, "max_position_embeddings", 0) or 1 << 20)
    return TargetText(tokenizer, frozenset(stops), context)
