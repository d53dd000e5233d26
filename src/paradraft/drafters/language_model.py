"""What drafters that are causal language models share: their model, their head, and their own ragged cache.

Committed tokens *wait* until the next draft and are consumed by the same forward, in front of the newest token.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ..config import DrafterSection
from ..errors import UserError, first_line
from ..models import RaggedCache, Target
from ..models.cpu_kernels import head_is_plain, head_logits
from ..models.names import drafter_directory
from ..models.target import load_causal_lm, moved, refuse_unsupported, run_decoder
from .base import Drafter, DraftState
from .directory import read_config

FOREIGN_KEYS = ("pard", "spd_", "mask_token_id")  # of what a run started from; vLLM reads a stray mask_token_id first


class LanguageModelState(DraftState):
    """cache: consumed tokens; waiting [rows, W, H] with counts [rows]: embeddings of committed ones that are not."""

    def __init__(self, cache: RaggedCache, waiting: Tensor, counts: Tensor, last_features: Tensor) -> None:
        self.cache, self.waiting, self.counts = cache, waiting, counts
        self.last_features = last_features  # [rows, F] of the newest token that has any; zeros before the first

    def keep_rows(self, rows: Tensor) -> None:
        self.cache.keep_rows(rows)
        self.waiting, self.counts = self.waiting[rows], self.counts[rows]
        self.last_features = self.last_features[rows]


class LanguageModelDrafter(Drafter):
    """A causal language model that shares the target's tokens; its directory is that of any Hugging Face model."""

    def __init__(self, model: PreTrainedModel, target: Target, max_draft: int) -> None:
        super().__init__()
        config: Any = model.config.get_text_config()
        refuse_unsupported(config, model, model.name_or_path or type(model).__name__)
        if max_draft < 1:
            raise UserError(f"a draft model drafts at least one token a round, not {max_draft} (draft_length)")
        self.feature_layers = ()
        self.max_draft = max_draft
        self.target = target
        self.model = model.requires_grad_(True)
        self.attention: str = model.config._attn_implementation
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._check_vocabulary()
        if not head_is_plain(model, self.softcap):
            raise UserError(
                f"draft model {type(model).__name__}: its logits are not its head applied to its last hidden state "
                "(a scaled or adapted head), which paradraft does not support yet"
            )

    def _check_vocabulary(self) -> None:
        mine, theirs = self.embedding.num_embeddings, self.target.vocabulary_size
        if mine < theirs:
            raise UserError(
                f"this draft model has embeddings for {mine} tokens, target {self.target.name} for {theirs}; "
                "a draft model needs the target's own tokenizer and at least as many rows"
            )

    @property
    def embedding(self) -> nn.Embedding:
        embedding = self.model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    # --- shared by training and decoding ----------------------------------------------------------------------

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the target's vocabulary; tokens of this model's own (a mask, padding) are cut off."""
        return head_logits(self.model, hidden.to(self.dtype), self.target.vocabulary_size, self.softcap)

    def inputs(self, tokens: Tensor, previous: Tensor) -> Tensor:
        """Input embeddings [..., H] of tokens [...]; `previous` [..., F]: target features one position earlier."""
        embedded: Tensor = self.embedding(tokens)
        return embedded

    def run(self, inputs: Tensor, positions: Tensor, visible: Any, cache: RaggedCache | None) -> Tensor:
        """Final-normed hidden states; `visible` as `run_decoder` takes it."""
        wanted = self.attention if isinstance(visible, Tensor) else "flex_attention"
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)
        return run_decoder(self.model.base_model, {"inputs_embeds": inputs}, positions, visible, self.dtype, cache)

    # --- decoding -------------------------------------------------------------------------------------------------

    def start(self, rows: int, capacity: int) -> LanguageModelState:
        layers = int(self.model.config.get_text_config().num_hidden_layers)
        weight = self.embedding.weight
        width = len(self.feature_layers) * self.target.hidden_size
        cache = RaggedCache(layers, rows, capacity + self.max_draft + 1, weight.device)  # room for ragged waiting
        counts = torch.zeros(rows, dtype=torch.long, device=weight.device)
        return LanguageModelState(
            cache, weight.new_zeros(rows, 0, weight.shape[1]), counts, weight.new_zeros(rows, width)
        )

    @torch.no_grad()
    def observe(self, state: DraftState, features: Tensor, tokens: Tensor, counts: Tensor) -> None:
        assert isinstance(state, LanguageModelState)
        if state.waiting.shape[1]:
            self.run_behind(state, state.waiting[:, :0])
        features = features.to(self.dtype)
        previous = torch.cat((state.last_features[:, None], features[:, :-1]), dim=1)
        prompt = state.cache.longest == 0
        state.waiting, state.counts = self.inputs(tokens, previous), counts
        newest = torch.arange(len(counts), device=counts.device), (counts - 1).clamp(min=0)
        state.last_features = torch.where(counts[:, None] > 0, features[newest], state.last_features)
        if prompt:  # a prompt belongs to the prefill, not to the first draft
            self.run_behind(state, state.waiting[:, :0])

    def run_behind(self, state: LanguageModelState, block: Tensor) -> Tensor:
        """Consume what waits and `block` [rows, K, H] behind it, then forget the block; its hidden states."""
        rows, steps, width = block.shape
        places = state.counts[:, None] + torch.arange(steps, device=block.device)  # a row's own end of waiting
        index = places[..., None].expand(-1, -1, width)
        inputs = torch.cat((state.waiting, block.new_zeros(rows, steps, width)), dim=1).scatter(1, index, block)
        positions, visible = state.cache.reserve(inputs.shape[1])
        hidden = self.run(inputs, positions, visible, state.cache)
        state.cache.commit(state.counts)
        state.waiting, state.counts = state.waiting[:, :0], torch.zeros_like(state.counts)
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))

    # --- on disk ----------------------------------------------------------------------------------------------------

    def engine_config(self) -> dict[str, Any]:
        """What config.json says beside the model's own keys, in the engines' terms."""
        return {}

    def own_config(self) -> dict[str, Any]:
        """What only paradraft reads, under the key `paradraft`: enough to go on training."""
        return {"draft_length": self.max_draft}

    def save_pretrained(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name in [name for name in vars(self.model.config) if name.startswith(FOREIGN_KEYS)]:
            delattr(self.model.config, name)  # of the drafter it was started from
        for name, value in {**self.engine_config(), "paradraft": self.own_config()}.items():
            setattr(self.model.config, name, value)
        self.model.save_pretrained(directory)
        if self.target.tokenizer is not None:
            self.target.tokenizer.save_pretrained(directory)


def load_language_model(directory: Path, target: Target, dtype: torch.dtype | None) -> PreTrainedModel:
    """On the target's device, in `dtype` or the target's; refused where its tokenizer is not the target's."""
    check_tokenizer(directory, target)
    model = load_causal_lm(str(directory), dtype or target.dtype, "drafter", trust_remote_code=False)
    loaded: PreTrainedModel = moved(model, target.device)
    return loaded


def own_settings(directory: Path) -> dict[str, Any]:
    """What paradraft wrote for itself into config.json; empty for a foreign directory."""
    found = read_config(directory).get("paradraft") or {}
    if not isinstance(found, dict) or not all(isinstance(v, int | float) and math.isfinite(v) for v in found.values()):
        raise UserError(f"drafter {directory}: the key `paradraft` of config.json does not hold numbers by name")
    return found


def starting_model(section: DrafterSection, target: Target) -> PreTrainedModel:
    """The language model a run starts from: `init_from`, or a fresh one of the target's architecture, in float32."""
    if section.init_from is not None:
        start = load_language_model(drafter_directory(section.init_from), target, torch.float32)
        width = int(start.config.get_text_config().hidden_size)
        if section.hidden_size not in (width, None):
            raise UserError(
                f"drafter.hidden_size is {section.hidden_size}, but {section.init_from} has {width}; leave it out"
            )
        return start
    config: Any = copy.deepcopy(target.config)
    config.num_hidden_layers = section.layers
    config.hidden_size = section.hidden_size or target.hidden_size
    config.intermediate_size = config.intermediate_size * config.hidden_size // target.hidden_size
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * section.layers
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    loaded: PreTrainedModel = moved(model, target.device)
    return loaded


def check_tokenizer(directory: Path, target: Target) -> None:
    """Where both have one, every token of the target must have the same id in the draft model's tokenizer."""
    if target.tokenizer is None or not any(directory.glob("tokenizer*")):
        return
    try:
        mine = AutoTokenizer.from_pretrained(directory).get_vocab()
    except Exception as error:  # damaged files surface as errors of many libraries
        raise UserError(f"draft model {directory}: its tokenizer cannot be loaded: {first_line(error)}") from error
    for token, number in target.tokenizer.get_vocab().items():
        if mine.get(token) != number:
            raise UserError(
                f"draft model {directory} has another tokenizer than target {target.name} (token {token!r} is "
                f"{mine.get(token)} there and {number} here); a draft model needs the target's own"
            )
