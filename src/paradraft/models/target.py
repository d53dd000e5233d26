"""`Target`: any Hugging Face causal language model behind the few operations that drafting needs.

Layer ids are 0-based outputs of decoder layers: id `i` is `hidden_states[i + 1]` in Transformers' counting, but
for the last layer, where it is the output *before* the final norm. What Transformers reports last, the output after
the final norm, has the id N of a model with N layers.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError
from .attention import document_attention, layer_masks, refuse_unsupported
from .chat import ChatText, context_length_of, load_tokenizer, no_tokenizer, stop_tokens_of
from .cpu_kernels import bfloat16_is_fast, head_is_plain, head_logits
from .gguf import origin
from .graphs import Graphs, graphs_for
from .lean import LeanDecoder, prepare_decoding
from .loading import load_causal_lm, moved
from .names import found_target, shown_name
from .packing import Packing, TargetOutput
from .slots import KeyValueSlots

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


log = logging.getLogger(__name__)


class Target:
    """A frozen causal language model and its `ChatText`; `model` is never trained and stays in evaluation mode."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        name: str = "",
        thinking: bool | None = None,
        date: datetime.date | None = None,
    ) -> None:
        self.name = name or str(getattr(model, "name_or_path", "")) or type(model).__name__
        self.config = model.config.get_text_config()
        refuse_unsupported(self.config, model, f"target {self.name}")
        self.model = model.eval().requires_grad_(False)
        self.stop_tokens = stop_tokens_of(model.generation_config, tokenizer)
        self._chat = None if tokenizer is None else ChatText.of(tokenizer, self.stop_tokens, thinking, date)
        self.sharded = False  # by FSDP2, over several processes
        self.lean: LeanDecoder | None = None  # see `prepare_decoding`
        self.graphs: Graphs | None = None  # on a GPU; None also turns them off
        self.origin: str | None = None  # what a GGUF file held, in words
        self.base: nn.Module = model.base_model
        found = getattr(self.base, "layers", None)
        if found is None or model.get_output_embeddings() is None:
            raise UserError(
                f"target {self.name}: {type(model).__name__} keeps its decoder layers or its head where paradraft "
                "does not find them; use a Llama- or Qwen-style causal language model"
            )
        self.layers: Sequence[nn.Module] = list(found)
        self.softcap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self._check_head()

    # --- what it is -----------------------------------------------------------------------------------------

    @property
    def chat(self) -> ChatText:
        """How it reads and writes text; UserError for a target without a tokenizer."""
        if self._chat is None:
            raise no_tokenizer(self.name)
        return self._chat

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        return None if self._chat is None else self._chat.tokenizer

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def vocabulary_size(self) -> int:
        return int(self.embedding.weight.shape[0])

    @property
    def context_length(self) -> int:
        return context_length_of(self.config)

    @property
    def embedding(self) -> nn.Embedding:
        embedding = self.model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding

    @property
    def output_embedding(self) -> nn.Module:
        """The head: its `weight` is [vocabulary, hidden]."""
        head = self.model.get_output_embeddings()
        assert isinstance(head, nn.Module)
        return head

    @property
    def embedding_scale(self) -> float | Tensor:
        """What its embedding multiplies its rows by: the square root of the width in Gemma, else 1."""
        scale: float | Tensor = getattr(self.embedding, "embed_scale", 1.0)
        return scale

    # --- what it does ---------------------------------------------------------------------------------------

    def head(self, hidden: Tensor) -> Tensor:
        """Final-normed hidden states [..., hidden] -> logits [..., vocabulary], soft cap included."""
        return head_logits(self.model, hidden, self.vocabulary_size, self.softcap)

    def new_slots(self, rows: int, capacity: int) -> KeyValueSlots:
        return KeyValueSlots(len(self.layers), rows, capacity, self.device)

    def decoding(self) -> AbstractContextManager[None]:
        """Around all of a decode: inference mode, but where FSDP2 gathers weights, which it cannot do in there."""
        return torch.no_grad() if self.sharded else torch.inference_mode()

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        cache: KeyValueSlots,
        feature_layers: Sequence[int] = (),
        slots: Sequence[int] | None = None,
        parents: Tensor | None = None,
        logits_at: Tensor | None = None,
        counts: Sequence[int] | None = None,
    ) -> TargetOutput:
        """Run [rows, tokens] behind the committed tokens of `slots` (None: all); the caller commits what it accepts.

        `parents` as `KeyValueSlots.reserve` takes them. With `logits_at` [rows] the head runs on one position a row
        (prefill), logits [rows, 1, vocabulary]. `counts`: of each row only so many tokens matter; where `packs`, the
        rest costs little.
        """
        packing = None
        if counts is not None and self.packs:
            packing = Packing.of(counts, input_ids.shape[1], input_ids.device)
        hidden, features = self._behind(input_ids, cache, feature_layers, slots, parents, packing, logits_at is None)
        if logits_at is not None:
            hidden = hidden[torch.arange(len(hidden), device=hidden.device), logits_at][:, None]
        return TargetOutput(self.head(hidden), features, packing)

    @property
    def packs(self) -> bool:
        """Whether a forward of rows of unequally many tokens costs what these tokens cost.

        Not in a graph, whose shapes are fixed, and not in Transformers' own forward.
        """
        return self.lean is not None and not self.sharded and self.graphs is None

    def _behind(
        self,
        input_ids: Tensor,
        cache: KeyValueSlots,
        feature_layers: Sequence[int],
        slots: Sequence[int] | None,
        parents: Tensor | None,
        packing: Packing | None,
        again: bool,
    ) -> tuple[Tensor, Tensor]:
        """Final-normed hidden states, packed where there is a `packing`, and features.

        `again`: forwards of this shape will come again.
        """
        if self.lean is None or self.sharded:
            return self._run(input_ids, *cache.reserve(slots, input_ids.shape[1], parents), feature_layers, cache)
        if self.graphs is not None and again:
            found = self.graphs.run(self.lean, self.embedding, input_ids, cache, slots, parents, feature_layers)
            if found is not None:
                return found
        positions, visible = cache.reserve(slots, input_ids.shape[1], parents)
        tokens = input_ids if packing is None else packing.pack(input_ids)
        hidden, outputs = self.lean.run(self.embedding(tokens), positions, visible, cache, feature_layers, packing)
        features = torch.cat(outputs, dim=-1) if outputs else hidden[..., :0]
        return hidden, features if packing is None else packing.pad(features)

    @torch.no_grad()
    def read(self, input_ids: Tensor, document_ids: Tensor, feature_layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Final-normed hidden states [batch, tokens, hidden] of whole sequences, and their features.

        Features are [batch, tokens, layers * hidden]. Documents (id < 0: padding) don't mix.
        """
        return self._run(input_ids, *document_attention(document_ids), feature_layers, None)

    def features(self, input_ids: Tensor, document_ids: Tensor, feature_layers: Sequence[int]) -> Tensor:
        """The features alone; without layers there is nothing to run for."""
        if not feature_layers:
            return torch.empty(*input_ids.shape, 0, dtype=self.dtype, device=self.device)
        return self.read(input_ids, document_ids, feature_layers)[1]

    @torch.no_grad()
    def logits(self, input_ids: Tensor, document_ids: Tensor) -> Tensor:
        """Logits [batch, tokens, vocabulary] of whole sequences, the documents apart."""
        return self.head(self.read(input_ids, document_ids, ())[0])

    def prepare_decoding(self) -> None:
        """Decode the fast way from now on: a lean forward where the architecture is a common one, graphs, CPU kernels.

        The weights must be final and stay where they are.
        """
        self.lean = prepare_decoding(self.model)
        self.graphs = None if self.lean is None else graphs_for(self.device)

    def shard(self, device: torch.device, processes: int) -> None:
        """Shard the decoder layers by FSDP2, in place; embedding, last norm and head stay whole in each process.

        From then on all processes must run the forward equally often, each on its own device.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor

        mesh = init_device_mesh(device.type, (processes,))
        for parameter in self.model.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP2 shards no other
        for layer in self.layers:
            fully_shard(layer, mesh=mesh)
        rest = {p for module in (self.base, self.model) for p in module.parameters() if not isinstance(p, DTensor)}
        fully_shard(self.base, mesh=mesh, ignored_params=rest)
        moved(self.model, device)
        self.sharded, self.lean, self.graphs = True, None, None

    def check_layers(self, feature_layers: Sequence[int]) -> None:
        wrong = [i for i in feature_layers if not 0 <= i <= len(self.layers)]
        if wrong:
            last = len(self.layers)
            raise UserError(
                f"feature layer {wrong[0]} does not exist: target {self.name} has layers 0 to {last - 1}, and {last} "
                "stands for what comes after the final norm"
            )

    def _run(
        self,
        input_ids: Tensor,
        positions: Tensor,
        visible: Tensor,
        feature_layers: Sequence[int],
        cache: KeyValueSlots | None,
    ) -> tuple[Tensor, Tensor]:
        collected: dict[int, Tensor] = {}

        def collector(layer: int) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                collected[layer] = output[0] if isinstance(output, tuple) else output

            return keep

        hooks = [
            self.layers[i].register_forward_hook(collector(i)) for i in set(feature_layers) if i < len(self.layers)
        ]
        try:
            hidden = run_decoder(self.base, {"input_ids": input_ids}, positions, visible, self.dtype, cache)
        finally:
            for hook in hooks:
                hook.remove()
        collected[len(self.layers)] = hidden
        if not feature_layers:
            return hidden, hidden[..., :0]
        return hidden, torch.cat([collected[i] for i in feature_layers], dim=-1)

    def _check_head(self) -> None:
        if not head_is_plain(self.model, self.softcap):
            raise UserError(
                f"target {self.name}: its logits are not its head applied to its last hidden state "
                "(a scaled or adapted head), which paradraft does not support yet"
            )

    # --- where it comes from --------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        name: str,
        dtype: str = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
        thinking: bool | None = None,
        date: datetime.date | None = None,
    ) -> Target:
        """From a directory, a GGUF file, a Hugging Face id, or a shipped name (`demo`, `smollm2`).

        `dtype` "auto" is float32 on a CPU and the checkpoint's own elsewhere. `thinking` and `date` are how its chat
        template asks, as ChatText has them.
        """
        directory = found_target(name)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if dtype != "auto" and dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r} is not known: use one of auto, {', '.join(DTYPES)}")
        chosen = DTYPES.get(dtype, torch.float32 if torch.device(device).type == "cpu" else None)
        if chosen == torch.bfloat16 and not bfloat16_is_fast(torch.device(device)):
            log.warning("this CPU has no bfloat16 instructions: bfloat16 is hundreds of times slower than float32 here")
        tokenizer = load_tokenizer(directory, trust_remote_code)
        model = load_causal_lm(directory, chosen, "target", trust_remote_code)
        target = cls(moved(model, device), tokenizer, shown_name(name), thinking, date)
        target.origin = origin(directory)
        target.prepare_decoding()
        return target


def run_decoder(
    base: nn.Module,
    inputs: dict[str, Tensor],
    positions: Tensor,
    visible: Any,
    dtype: torch.dtype,
    cache: KeyValueSlots | None,
) -> Tensor:
    """Final-normed hidden states of a Hugging Face decoder.

    inputs {"input_ids": [R, T]} or {"inputs_embeds": [R, T, H]}, positions [R, T]; `visible` is boolean [R, T, keys],
    or a flex block mask for a model that runs flex attention.
    """
    mask = layer_masks(visible, base.config, dtype) if isinstance(visible, Tensor) else visible
    hidden: Tensor = base(
        **inputs,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    return hidden
