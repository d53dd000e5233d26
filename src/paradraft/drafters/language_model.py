"""What drafters that are causal language models share: their model, their head, and their own slots.

Committed tokens *wait* until the next draft and are consumed by the same forward, in front of the newest token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel
from typing_extensions import Self

from ..errors import UserError, first_line
from ..models import KeyValueSlots, Target
from ..models.attention import refuse_unsupported, sliding_window
from ..models.cpu_kernels import head_is_plain, head_logits, soft_capped
from ..models.graphs import Graphs, as_it_is, graphs_for
from ..models.lean import LeanDecoder, prepare_decoding
from ..models.loading import embedding_parameters, load_causal_lm, moved
from ..models.target import run_decoder
from .base import Drafter, DrafterSection
from .directory import read_config
from .state import DraftState, lay_behind
from .vocabulary import DraftVocabulary

OWN_TENSORS = Path("paradraft") / "own.safetensors"  # in a folder: engines load every safetensors file beside it
FOREIGN_KEYS = ("pard", "spd_", "mask_token_id")  # of what a run started from; vLLM reads a stray mask_token_id first


class LanguageModelSection(DrafterSection):
    hidden_size: int | None = Field(None, ge=8, description="width; null: the target's")
    draft_length: int = Field(16, ge=1, description="most tokens drafted a round")
    init_from: str | None = Field(
        None,
        description="start from these weights: a drafter, any causal language model, or `target`: the target with "
        "its first and its last layers, `layers` in all",
    )
    share_embedding: bool = Field(
        False, description="use the target's embedding and head, which are then neither trained nor stored"
    )


class LanguageModelDrafter(Drafter):
    """A causal language model that shares the target's tokens; its directory is that of any Hugging Face model.

    `share_embedding`: it has no embedding and no head of its own but uses the target's, which are not trained and not
    saved; its width is the target's.
    """

    def __init__(self, model: PreTrainedModel, target: Target, max_draft: int, share_embedding: bool = False) -> None:
        super().__init__(target)
        config: Any = model.config.get_text_config()
        name = f"draft model {model.name_or_path or type(model).__name__}"
        refuse_unsupported(config, model, name)
        if sliding_window(config) is not None:
            raise UserError(f"{name} has sliding-window layers; choose one with full attention in every layer")
        if max_draft < 1:
            raise UserError(f"a draft model drafts at least one token a round, not {max_draft} (draft_length)")
        self.max_draft = max_draft
        self.lean: LeanDecoder | None = None  # see `prepare_decoding`
        self.graphs: Graphs | None = None  # on a GPU
        self.model = model.requires_grad_(True).eval()  # see `train`
        self.attention: str = model.config._attn_implementation
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.shares_embedding = share_embedding
        self._check_vocabulary()
        if not head_is_plain(model, self.softcap):
            raise UserError(
                f"draft model {type(model).__name__}: its logits are not its head applied to its last hidden state "
                "(a scaled or adapted head), which paradraft does not support yet"
            )
        if share_embedding:
            self.drop_embedding()

    def train(self, mode: bool = True) -> Self:
        """The model stays as it decodes: its dropout, if it has some, would be drawn from no seed of the run."""
        super().train(mode)
        self.model.eval()
        return self

    def drop_embedding(self) -> None:
        """Tiny stand-ins take the place of what the target has already; nothing calls them."""
        width = self.embedding.embedding_dim
        if width != self.target.hidden_size:
            raise UserError(
                f"drafter.share_embedding needs the target's width of {self.target.hidden_size}, this model has {width}"
            )
        stand_ins = nn.Embedding(1, width), nn.Linear(width, 1, bias=False)
        for stand_in in stand_ins:
            stand_in.to(device=self.embedding.weight.device, dtype=self.embedding.weight.dtype).requires_grad_(False)
        self.model.set_input_embeddings(stand_ins[0])
        self.model.set_output_embeddings(stand_ins[1])

    def _check_vocabulary(self) -> None:
        if self.shares_embedding:
            return
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
        """Logits over the draft vocabulary; tokens of this model's own (a mask, padding) are cut off."""
        if self.shares_embedding:
            return super().head(hidden)
        if self.vocabulary is None:
            return head_logits(self.model, hidden.to(self.dtype), self.target.vocabulary_size, self.softcap)
        output: Any = self.model.get_output_embeddings()
        bias = None if output.bias is None else output.bias[self.vocabulary.ids]
        return soft_capped(F.linear(hidden.to(self.dtype), output.weight[self.vocabulary.ids], bias), self.softcap)

    def restrict(self, vocabulary: DraftVocabulary) -> None:
        super().restrict(vocabulary)
        if not self.shares_embedding:
            self.head_rows = None

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [..., H] of tokens [...]."""
        embedded: Tensor = (
            self.target.embedding(tokens).to(self.dtype) if self.shares_embedding else self.embedding(tokens)
        )
        return embedded

    def inputs(self, tokens: Tensor, previous: Tensor) -> Tensor:
        """Input embeddings [..., H] of tokens [...]; `previous` [..., F]: target features one position earlier."""
        return self.embed(tokens)

    def run(self, inputs: Tensor, positions: Tensor, visible: Any, cache: KeyValueSlots | None) -> Tensor:
        """Final-normed hidden states; `visible` as `run_decoder` takes it."""
        if cache is not None and self.lean is not None:
            return self.lean.run(inputs, positions, visible, cache)[0]
        wanted = self.attention if isinstance(visible, Tensor) else "flex_attention"
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)
        return run_decoder(self.model.base_model, {"inputs_embeds": inputs}, positions, visible, self.dtype, cache)

    # --- decoding -------------------------------------------------------------------------------------------------

    def prepare_decoding(self) -> None:
        self.lean = prepare_decoding(self.model, self)
        self.graphs = None if self.lean is None else graphs_for(self.embedding.weight.device)

    def start(self, rows: int, capacity: int) -> DraftState:
        layers = int(self.model.config.get_text_config().num_hidden_layers)
        weight, longest = self.embedding.weight, self.max_draft + 1  # a stand-in has the same width, type and device
        cache = KeyValueSlots(layers, rows, capacity + longest, weight.device)
        width = len(self.feature_layers) * self.target.hidden_size
        return DraftState(cache, weight.new_zeros(rows, longest, weight.shape[1]), weight.new_zeros(rows, width))

    @torch.no_grad()
    def observe(
        self, state: DraftState, slots: Sequence[int], features: Tensor, tokens: Tensor, counts: Tensor
    ) -> None:
        known = state.with_last(slots, features.to(self.dtype), counts)
        state.receive(slots, self.inputs(tokens, known[:, :-1]), counts, self._consume)

    def _consume(self, state: DraftState, slots: Sequence[int], inputs: Tensor, counts: Tensor) -> None:
        self.run_behind(state, slots, inputs, counts, inputs[:, :0])

    def draft_behind(self, state: DraftState, slots: Sequence[int], block: Tensor) -> Tensor:
        """Consume what waits and `block` [rows, K, H] behind it, then forget the block; its hidden states."""
        return self.run_behind(state, slots, *state.flush(slots, self.graphs is not None), block)

    def run_in_slots(self, inputs: Tensor, cache: KeyValueSlots, slots: Sequence[int]) -> Tensor:
        """Final-normed hidden states of `inputs` [rows, T, H] behind the committed tokens of `slots`."""
        if self.graphs is not None and self.lean is not None:
            found = self.graphs.run(self.lean, as_it_is, inputs, cache, slots)
            if found is not None:
                return found[0]
        return self.run(inputs, *cache.reserve(slots, inputs.shape[1]), cache)

    def run_behind(
        self, state: DraftState, slots: Sequence[int], inputs: Tensor, counts: Tensor, block: Tensor
    ) -> Tensor:
        """Consume the first `counts` [rows] of `inputs` [rows, W, H], and `block` right behind each row's own."""
        inputs, places = lay_behind(inputs, counts, block)
        hidden = self.run_in_slots(inputs, state.cache, slots)
        state.cache.commit(counts)
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))

    # --- on disk ----------------------------------------------------------------------------------------------------

    def engine_config(self) -> dict[str, Any]:
        """What config.json says beside the model's own keys, in the engines' terms."""
        return {}

    def own_config(self) -> dict[str, Any]:
        """What only paradraft reads, under the key `paradraft`: enough to go on training."""
        return {"draft_length": self.max_draft, "share_embedding": self.shares_embedding}

    def own_tensors(self) -> dict[str, Tensor]:
        """What only paradraft reads, saved beside the model in a folder of its own."""
        return {} if self.vocabulary is None else self.vocabulary.tensors()

    def save_pretrained(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name in [name for name in vars(self.model.config) if name.startswith(FOREIGN_KEYS)]:
            delattr(self.model.config, name)  # of the drafter it was started from
        for name, value in {**self.engine_config(), "paradraft": self.own_config()}.items():
            setattr(self.model.config, name, value)
        stand_ins = embedding_parameters(self.model) if self.shares_embedding else set()
        kept = {n: t.detach() for n, t in self.model.state_dict(keep_vars=True).items() if t not in stand_ins}
        self.model.save_pretrained(directory, state_dict=kept)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.own_tensors().items()}
        if tensors:
            (directory / OWN_TENSORS).parent.mkdir(exist_ok=True)
            save_file(tensors, directory / OWN_TENSORS)
        if self.target.tokenizer is not None:
            self.target.tokenizer.save_pretrained(directory)


def load_language_model(directory: Path, target: Target, dtype: torch.dtype | None) -> PreTrainedModel:
    """On the target's device, in `dtype` or the target's; refused where its tokenizer is not the target's."""
    check_tokenizer(directory, target)
    shared = bool(own_settings(directory).get("share_embedding"))
    model = load_causal_lm(str(directory), dtype or target.dtype, "drafter", False, without_embedding=shared)
    loaded: PreTrainedModel = moved(model, target.device)
    return loaded


def own_settings(directory: Path) -> dict[str, Any]:
    """What paradraft wrote for itself into config.json; empty for a foreign directory."""
    found = read_config(directory).get("paradraft") or {}
    if not isinstance(found, dict) or not all(isinstance(v, int | float) and math.isfinite(v) for v in found.values()):
        raise UserError(f"drafter {directory}: the key `paradraft` of config.json does not hold numbers by name")
    return found


def own_tensors_of(directory: Path) -> dict[str, Tensor]:
    """What `own_tensors` wrote; empty for a foreign directory."""
    path = directory / OWN_TENSORS
    if not path.is_file():
        return {}
    try:
        return load_file(path)
    except Exception as error:  # damaged files surface as errors of many kinds
        raise UserError(f"drafter {directory}: {OWN_TENSORS} cannot be read: {first_line(error)}") from None


def read_own_tensors(directory: Path, drafter: LanguageModelDrafter) -> dict[str, Tensor]:
    """`own_tensors_of`; a reduced vocabulary among it is taken on."""
    tensors = own_tensors_of(directory)
    if "d2t" in tensors:
        size = drafter.target.vocabulary_size
        drafter.restrict(DraftVocabulary.from_tensors(tensors, size, f"drafter {directory}"))
    return tensors


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
