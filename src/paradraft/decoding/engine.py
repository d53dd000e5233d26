"""The batched round loop: draft, verify, accept, commit. Without a drafter it is plain autoregressive decoding.

Rows are ragged: every row has its own length in the target's cache and in the drafter's, and a row that ends
leaves the batch. The newest committed token is the *anchor*: the target has not consumed it yet, so it has no
features; the next verify forward consumes it together with the drafts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..drafters import Drafter, DraftState
from ..errors import UserError
from ..models import RaggedCache, Target
from .acceptance import accept_greedy, accept_sampled
from .sampling import Sampling, distribution, sample


@dataclass(frozen=True)
class Round:
    """One row's part in one round: what was drafted, how many drafts were kept, how many tokens were emitted.

    `emitted` is `accepted + 1` (the target's own token), but for a text that ended inside the round.
    """

    drafted: tuple[int, ...]
    accepted: int
    emitted: int

    @property
    def clipped(self) -> bool:
        """The text ended (stop token or length) before the target's own token of this round."""
        return self.emitted <= self.accepted


@dataclass
class Generation:
    """tokens: the answer, its stop token included. The first one comes from the prefill, outside any round."""

    tokens: list[int] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    stopped: bool = False


@dataclass
class Seconds:
    """Wall-clock time by phase; `prefill` is not part of decoding."""

    prefill: float = 0.0
    draft: float = 0.0
    verify: float = 0.0
    other: float = 0.0

    @property
    def decode(self) -> float:
        return self.draft + self.verify + self.other

    def add(self, more: Seconds) -> None:
        for name, value in vars(more).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Ends:
    """When a row leaves: at a stop token, at `limit` tokens (drafts are shortened to end there), or with `enough`."""

    limit: int
    enough: int
    stops: Collection[int]


@dataclass
class Rows:
    """The rows still running: outputs[i] belongs to row i of every tensor."""

    outputs: list[Generation]
    anchors: Tensor
    cache: RaggedCache
    draft_state: DraftState | None

    def keep(self, going_on: list[int]) -> None:
        if len(going_on) == len(self.outputs):
            return
        index = torch.tensor(going_on, dtype=torch.long, device=self.anchors.device)
        self.outputs = [self.outputs[i] for i in going_on]
        self.anchors = self.anchors[index]
        keep_rows(index, self.cache, self.draft_state)


class Engine:
    """Decodes batches of prompts for one target, with a drafter or without, always with the target's own output.

    `draft_length` K defaults to the drafter's trained maximum. `on_tokens(row, tokens)` streams what is emitted.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter | None = None,
        sampling: Sampling | None = None,
        draft_length: int | None = None,
        seed: int = 0,
    ) -> None:
        self.target = target
        self.drafter = drafter
        self.sampling = sampling or Sampling()
        self.draft_length = check_draft_length(drafter, draft_length)
        self.generator = torch.Generator(target.device).manual_seed(seed)
        self.seconds = Seconds()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_tokens: Collection[int] | None = None,
        samples: int = 1,
        enough: int | None = None,
    ) -> list[Generation]:
        """Answers in the order of `prompts` (token ids), which run as one batch; at most `max_new_tokens` each.

        `samples` answers a prompt, one after the other, share its prefill. A row may leave with `enough` tokens,
        while its drafts are still as long as `max_new_tokens` lets them be.
        """
        stops = self.target.stop_tokens if stop_tokens is None else frozenset(stop_tokens)
        check_prompts(prompts, max_new_tokens, self.target)
        ends = Ends(max_new_tokens, enough or max_new_tokens, stops)
        outputs = [Generation() for _ in prompts for _ in range(samples)]
        with self.target.decoding():
            rows = self._prefill(prompts, outputs, ends)
            while rows.outputs:
                self._round(rows, ends)
        return outputs

    def _prefill(self, prompts: Sequence[Sequence[int]], outputs: list[Generation], ends: Ends) -> Rows:
        """Consume the prompts (padded on the right, padding forgotten) and emit each row's first token."""
        clock = Clock(self.target.device)
        device = self.target.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        longest = max(len(prompt) for prompt in prompts)
        capacity = longest + ends.limit + self.draft_length + 1
        input_ids = torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts], device=device)
        cache = self.target.new_cache(len(prompts), capacity)
        layers = self.drafter.feature_layers if self.drafter else ()
        output = self.target.forward(input_ids, cache, layers, logits_at=lengths - 1)
        cache.commit(lengths)
        state = None
        if self.drafter is not None:
            state = self.drafter.start(len(prompts), capacity)
            self.drafter.observe(state, output.features, input_ids, lengths)
        logits = output.logits
        if len(outputs) > len(prompts):
            index = torch.arange(len(prompts), device=device).repeat_interleave(len(outputs) // len(prompts))
            keep_rows(index, cache, state)
            logits = logits[index]
        _, first = self._accept(torch.empty(len(logits), 0, dtype=torch.long, device=device), None, logits)
        rows = Rows(list(outputs), first, cache, state)
        self._commit(rows, [[token] for token in first.tolist()], None, ends)
        self.seconds.prefill += clock.lap()
        return rows

    def _round(self, rows: Rows, ends: Ends) -> None:
        """One draft, one target forward, one accept or reject, one commit."""
        clock = Clock(self.target.device)
        room = ends.limit - min(len(output.tokens) for output in rows.outputs)
        steps = min(self.draft_length, room - 1)
        drafts, probabilities = rows.anchors[:, None][:, :0], None
        if self.drafter is not None and rows.draft_state is not None and steps > 0:
            proposal = self.drafter.propose(rows.draft_state, rows.anchors, steps, self._sample_drafts)
            drafts, probabilities = proposal.tokens, proposal.probabilities
        self.seconds.draft += clock.lap()

        consumed = torch.cat((rows.anchors[:, None], drafts), dim=1)
        layers = self.drafter.feature_layers if self.drafter else ()
        output = self.target.forward(consumed, rows.cache, layers)
        self.seconds.verify += clock.lap()

        accepted, rows.anchors = self._accept(drafts, probabilities, output.logits)
        rows.cache.commit(accepted + 1)
        kept, drafted, new = accepted.tolist(), drafts.tolist(), rows.anchors.tolist()
        self.seconds.other += clock.lap()

        if self.drafter is not None and rows.draft_state is not None:
            self.drafter.observe(rows.draft_state, output.features, consumed, accepted + 1)
        self.seconds.draft += clock.lap()

        emitted = [[*tokens[:count], token] for tokens, count, token in zip(drafted, kept, new, strict=True)]
        self._commit(rows, emitted, drafted, ends)
        self.seconds.other += clock.lap()

    def _sample_drafts(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.sampling.greedy:
            return logits.argmax(-1), None
        probabilities = distribution(logits, self.sampling)
        return sample(probabilities, self.generator), probabilities

    def _accept(self, drafts: Tensor, probabilities: Tensor | None, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self.sampling.greedy:
            return accept_greedy(drafts, logits)
        return accept_sampled(drafts, probabilities, distribution(logits, self.sampling), self.generator)

    def _commit(self, rows: Rows, emitted: list[list[int]], drafted: list[list[int]] | None, ends: Ends) -> None:
        """Append each row's tokens up to its stop token or limit, and let the rows that ended leave."""
        going_on = []
        for i, (output, tokens) in enumerate(zip(rows.outputs, emitted, strict=True)):
            accepted = len(tokens) - 1
            tokens = tokens[: ends.limit - len(output.tokens)]
            stop = next((n for n, token in enumerate(tokens, 1) if token in ends.stops), None)
            tokens = tokens[:stop]
            output.tokens.extend(tokens)
            output.stopped = stop is not None
            if drafted is not None:
                output.rounds.append(Round(tuple(drafted[i]), accepted, len(tokens)))
            if not output.stopped and len(output.tokens) < ends.enough:
                going_on.append(i)
        rows.keep(going_on)


def keep_rows(index: Tensor, cache: RaggedCache, state: DraftState | None) -> None:
    """Go on with the rows `index`, which may repeat one."""
    cache.keep_rows(index)
    if state is not None:
        state.keep_rows(index)


class Clock:
    """Laps of wall-clock time; a GPU is waited for, so that a phase pays for its own work."""

    def __init__(self, device: torch.device) -> None:
        self.wait: Callable[[], None] | None = torch.cuda.synchronize if device.type == "cuda" else None
        self.last = time.perf_counter()

    def lap(self) -> float:
        if self.wait is not None:
            self.wait()
        now = time.perf_counter()
        elapsed, self.last = now - self.last, now
        return elapsed


def check_draft_length(drafter: Drafter | None, draft_length: int | None) -> int:
    """K to draft a round: the drafter's maximum unless told, 0 without a drafter."""
    if drafter is None:
        return 0
    if draft_length is None:
        return drafter.max_draft
    if not 1 <= draft_length <= drafter.max_draft:
        raise UserError(
            f"draft length {draft_length} is outside 1 to {drafter.max_draft}, what this drafter was trained for; "
            "choose a length in that range"
        )
    return draft_length


def check_prompts(prompts: Sequence[Sequence[int]], max_new_tokens: int, target: Target) -> None:
    """Every prompt must have a token and leave room for its answer in the target's context."""
    if max_new_tokens < 1:
        raise UserError(f"max new tokens must be at least 1, not {max_new_tokens}")
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {i + 1} is empty")
        if len(prompt) + max_new_tokens > target.context_length:
            raise UserError(
                f"prompt {i + 1} has {len(prompt)} tokens; with {max_new_tokens} new ones that is more than the "
                f"context of {target.context_length} of target {target.name}: shorten it or lower --max-new-tokens"
            )
