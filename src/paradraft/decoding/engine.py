"""The engine: a step function over sequences that come and go. Draft, verify, accept, commit; then the next.

Sequences are ragged: each has its own length in the target's slots and in the drafter's. One that ends leaves its slot
to the next one that waits, and nothing is copied. Without a drafter a step is plain autoregressive decoding.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Tokens

import torch
from torch import Tensor

from ..drafters import BranchingDrafter, Drafter
from ..errors import UserError
from ..models import KeyValueSlots, Target, TargetOutput
from .acceptance import accept, accept_greedy, check_acceptance
from .confidence import adaptive
from .draft import Accepted, Deferred, Draft, Drafting, Noise, no_draft, reach
from .length import AUTO, DraftLength, Fixed, FixedTree, LengthRule, check_draft_length
from .logprobs import logprobs_of
from .prefill import read_prompts
from .request import Event, Generation, Request, Sequence
from .sampling import Sampling, key_of, noise
from .scheduler import Scheduler
from .timing import Clock, Seconds
from .tree import behind_root

MOST_NODES = 1024  # of a tree
SPARE = 2  # times the tokens that running sequences need may be held for each


class Engine:
    """Decodes for one target, with a drafter or without, always with the target's own output.

    `sampling` is what `generate` asks for; a Request has its own. `draft_length` K defaults to the drafter's trained
    maximum; "auto": each round drafts as many tokens as promise the highest speed, none included. `tree`: draft that
    many nodes of a tree a round, at most K deep, instead of a chain; with "auto" at most that many. None: chains, with
    "auto" trees where they suit (see TreesOrChains); 0: always chains. `acceptance`: the rule of ACCEPTANCE or
    TREE_ACCEPTANCE that decides what is kept, None: `chain` or `tree_residual`. All of them keep the target's
    distribution. At most `max_rows` sequences run at a time, the others wait; None: all at once.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter | None = None,
        sampling: Sampling | None = None,
        draft_length: DraftLength | None = None,
        seed: int = 0,
        max_rows: int | None = None,
        acceptance: str | None = None,
        tree: int | None = None,
    ) -> None:
        if max_rows is not None and max_rows < 1:
            raise UserError(f"at least one sequence must run at a time, not {max_rows}")
        self.target = target
        self.drafter = drafter
        self.sampling = sampling or Sampling()
        self.draft_length = check_draft_length(drafter, draft_length)  # at most
        self.tree = check_tree(drafter, tree)
        self.lengths: LengthRule = FixedTree(tree) if tree else Fixed(self.draft_length)
        if drafter is not None and draft_length == AUTO:
            self.lengths = adaptive(target, drafter, self.draft_length, tree)
        self.acceptance = check_acceptance(acceptance, of_trees=bool(tree))
        self.seed = seed
        self.seconds = Seconds()
        self.scheduler = Scheduler(max_rows)
        self._added = 0
        self.keeps_slots = target.device.type == "cuda"  # while none runs: graphs hold the addresses of their buffers
        self._slots: KeyValueSlots | None = None  # these three while sequences run
        self._drafting: Drafting | None = None
        self._feature_layers: tuple[int, ...] = ()

    # --- what a caller does -------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Tokens[Tokens[int]],
        max_new_tokens: int,
        stop_tokens: Collection[int] | None = None,
        samples: int = 1,
        enough: int | None = None,
        seeds: Tokens[int] | None = None,
    ) -> list[Generation]:
        """Answers in the order of `prompts` (token ids), at most `max_new_tokens` each; `samples` to a prompt.

        `seeds`: of the noise of each answer; without them no two answers of an engine share theirs. `stop_tokens` and
        `enough` as in Request.
        """
        stops = None if stop_tokens is None else frozenset(stop_tokens)
        requests = [
            Request(
                prompt, max_new_tokens, self.sampling, stops, enough, None if seeds is None else seeds[i * samples + n]
            )
            for i, prompt in enumerate(prompts)
            for n in range(samples)
        ]
        for i, request in enumerate(requests):
            check_request(request, self.target, f"prompt {i // samples + 1}")
        sequences = [self.add(request) for request in requests]
        try:
            while not all(sequence.finished for sequence in sequences):
                self.step()
        except BaseException:
            self.cancel(sequences)
            raise
        return [sequence.generation for sequence in sequences]

    def add(self, request: Request) -> Sequence:
        """Let a request wait for its turn."""
        check_request(request, self.target, "the prompt")
        own = (self.seed, self._added) if request.seed is None else (request.seed,)
        self._added += 1
        stops = self.target.stop_tokens if request.stops is None else request.stops
        sequence = Sequence(request, stops, key_of(*own))
        self.scheduler.add(sequence)
        return sequence

    def cancel(self, sequences: list[Sequence]) -> None:
        """Let sequences end where they are, whether they run or wait."""
        with self.target.decoding():
            self._leave([sequence for sequence in dict.fromkeys(sequences) if not sequence.finished])

    def step(self) -> list[Event]:
        """Admit what has room, run one round of all that runs. Returns the tokens that each sequence gained.

        Where it raises, all that runs ends as it is: slots may hold what no sequence was told of.
        """
        try:
            return self._step()
        except BaseException:
            self._slots = self._drafting = None
            self._leave(self.scheduler.running)
            raise

    def _step(self) -> list[Event]:
        events: list[Event] = []
        with self.target.decoding():
            fresh = not self.scheduler.running
            admitted = self.scheduler.admit()
            if admitted:
                self._make_room(admitted, fresh)
                events += self._prefill(admitted)
                if running := self.scheduler.running:
                    self.lengths.prepare(len(running), any(not s.request.sampling.greedy for s in running))
            if self.scheduler.running:
                events += self._round(self.scheduler.running)
        return events

    # --- a step ---------------------------------------------------------------------------------------------------

    def _make_room(self, admitted: list[Sequence], fresh: bool) -> None:
        """Slots for the sequences that come; new ones if none was running, or those that were kept, where they fit.

        They grow with the longest of all that run, and shrink when they hold more than SPARE times as much.
        """
        rows = 1 + max(slot_of(sequence) for sequence in admitted)
        running = (sequence.request for sequence in self.scheduler.running)
        longest = max(len(request.prompt) + request.max_new_tokens for request in running)
        capacity = longest + max(self.draft_length, self.lengths.most) + 1
        layers = () if self.drafter is None else self.drafter.feature_layers  # `set_mode` changes them
        if self._slots is None or (
            fresh and not (fits(self._slots, rows, capacity) and layers == self._feature_layers)
        ):
            self._slots, self._drafting, self._feature_layers = self.target.new_slots(rows, capacity), None, layers
            if self.drafter is not None:
                nodes = self.tree * self.draft_length if self.tree and not self.drafter.parallel else 0
                self._drafting = Drafting(self.drafter, rows, capacity, nodes)
        elif capacity <= self._slots.capacity <= SPARE * capacity:
            capacity = self._slots.capacity
        for held in self._held():
            held.resize(rows, capacity)

    def _prefill(self, admitted: list[Sequence]) -> list[Event]:
        """Consume the prompts and emit each sequence's first token.

        Sequences with the same prompt share its forward.
        """
        assert self._slots is not None
        clock = Clock(self.target.device)
        device = self.target.device
        sharing: dict[tuple[int, ...], list[Sequence]] = {}
        for sequence in admitted:
            sharing.setdefault(tuple(sequence.request.prompt), []).append(sequence)
        slots = [slot_of(sequences[0]) for sequences in sharing.values()]
        logits = read_prompts(self.target, self._slots, self._drafting, list(sharing), slots)
        for first, *others in sharing.values():
            for held in self._held() if others else ():
                held.copy(slot_of(first), [slot_of(sequence) for sequence in others])
        sequences = [sequence for group in sharing.values() for sequence in group]
        row_of = torch.tensor([row for row, group in enumerate(sharing.values()) for _ in group], device=device)
        samplings = [sequence.request.sampling for sequence in sequences]
        _, deciding = self._noise(sequences, [0] * len(sequences))
        accepted = accept("chain", no_draft(row_of), logits[row_of], samplings, deciding)
        first_tokens = zip(sequences, row_of.tolist(), accepted.next.tolist(), strict=True)
        events = [event(s, s.emit([token], None), logits[row]) for s, row, token in first_tokens]
        self._leave([sequence for sequence in sequences if sequence.finished])
        self.seconds.prefill += clock.lap()
        return events

    def _round(self, running: list[Sequence]) -> list[Event]:
        """One draft, one target forward, one accept or reject, one commit."""
        assert self._slots is not None
        clock = Clock(self.target.device)
        slots = [slot_of(sequence) for sequence in running]
        samplings = [sequence.request.sampling for sequence in running]
        anchors = torch.tensor([sequence.anchor for sequence in running], device=self.target.device)
        lengths = [0] * len(running) if self._drafting is None else self.lengths.choose(running)
        draft, deciding = self._draft(running, slots, anchors, lengths)
        verified = draft.lengths.tolist()
        self.seconds.draft += clock.lap()

        consumed = torch.cat((anchors[:, None], draft.tokens), dim=1)
        parents = None if draft.parents is None else behind_root(draft.parents)
        counts = [1 + length for length in verified]
        output = self.target.forward(consumed, self._slots, self._feature_layers, slots, parents, counts=counts)
        self.seconds.verify += clock.lap()

        accepted = self.judge(draft, output, samplings, deciding)
        kept_tokens = accepted.along(consumed)
        figures = torch.stack((accepted.counts, accepted.next, reach(draft)), dim=1)
        places = () if accepted.path is None else (accepted.path[:, 1:] - 1,)
        found = torch.cat((figures, kept_tokens[:, 1:], draft.tokens, *places), dim=1).cpu()
        kept = found[:, 0] + 1
        accepted = accepted.shortened(int(kept.max()))
        self._slots.commit(kept, accepted.path)
        self.seconds.other += clock.lap()

        if self._drafting is not None:
            followed = [row for row, sequence in enumerate(running) if sequence.followed]
            self._drafting.observe(slots, accepted.along(output.features), accepted.along(consumed), kept, followed)
        self.seconds.draft += clock.lap()

        events = []
        for row, (sequence, (count, new, ahead, *tokens)) in enumerate(zip(running, found.tolist(), strict=True)):
            width = draft.tokens.shape[1]
            drafted, nodes = tokens[width:][: verified[row]], tokens[2 * width :][:count]
            path = None if accepted.path is None else accepted.path[row]
            emitted = sequence.emit(
                [*tokens[:count], new], drafted, ahead if drafted and path is not None else None, nodes
            )
            told = output.logits[row] if sequence.request.logprobs is not None else None  # needs all logits
            events.append(event(sequence, emitted, told, path))
        self.lengths.learn(running, lengths, clock.elapsed)
        self._leave([sequence for sequence in running if sequence.finished])
        self.seconds.other += clock.lap()
        return events

    def _draft(
        self, running: list[Sequence], slots: list[int], anchors: Tensor, lengths: list[int]
    ) -> tuple[Draft, Noise | None]:
        """What is verified, at most lengths[r] tokens of each row, and the noise that decides what is kept."""
        samplings = [sequence.request.sampling for sequence in running]
        if self._drafting is None or not any(lengths):
            draft = no_draft(anchors)
        elif self.lengths.nodes is not None:
            depths = [min(self.draft_length, n, s.room - 1) for s, n in zip(running, lengths, strict=True)]
            draft = self._drafting.tree(slots, anchors, depths, samplings, lengths)
            draft = self.lengths.paying(draft)
        else:
            choosing, deciding = self._noise(running, lengths)
            return self._drafting.chain(slots, anchors, lengths, samplings, choosing), deciding
        return draft, self._noise(running, draft.lengths.tolist())[1]

    def judge(self, draft: Draft, output: TargetOutput, samplings: Tokens[Sampling], noise: Noise | None) -> Accepted:
        """What of a draft is kept; without a sampled row none needs noise."""
        if noise is None:
            return accept_greedy(draft, output.choices)
        of_trees = self.tree and draft.parents is None  # nothing is verified
        return accept("chain" if of_trees else self.acceptance, draft, output.logits, samplings, noise)

    def _leave(self, sequences: list[Sequence]) -> None:
        """End sequences; where none is left, so do the slots: an engine that waits holds no memory for texts.

        On a GPU it keeps the slots.
        """
        slots = self.scheduler.leave(sequences)
        for held in self._held():
            held.release(slots)
        if not self.scheduler.running:
            if self._drafting is not None:
                self._drafting.deferred = Deferred()
            if not self.keeps_slots:
                self._slots = self._drafting = None

    def _held(self) -> list[KeyValueSlots | Drafting]:
        """All that has slots."""
        held: list[KeyValueSlots | Drafting] = [] if self._slots is None else [self._slots]
        return held if self._drafting is None else [*held, self._drafting]

    def _noise(self, sequences: list[Sequence], lengths: list[int]) -> tuple[Tensor | None, Noise | None]:
        """For drafting, [rows, N], and for deciding; None where every sequence is greedy.

        A sequence draws two numbers a drafted token and one for the token behind them, in an order that does not
        depend on how much the others draft.
        """
        if all(sequence.request.sampling.greedy for sequence in sequences):
            return None, None
        keys, drawn = [sequence.key for sequence in sequences], [sequence.drawn for sequence in sequences]
        found = noise(keys, drawn, 2 * max(lengths) + 1).to(self.target.device)
        for sequence, length in zip(sequences, lengths, strict=True):
            sequence.drawn += 2 * length + 1
        return found[:, 1::2], Noise(found[:, 2::2], found[:, 0])


def event(sequence: Sequence, tokens: list[int], logits: Tensor | None, path: Tensor | None = None) -> Event:
    """What `tokens` of a round tell; `logits` [N+1, V] and `path` as in `logprobs_of`."""
    count = sequence.request.logprobs
    if count is None or logits is None:
        return Event(sequence, tokens)
    return Event(sequence, tokens, logprobs_of(logits, tokens, count, path))


def fits(slots: KeyValueSlots, rows: int, capacity: int) -> bool:
    """Whether these slots are neither too small nor more than SPARE times too large."""
    return rows <= len(slots.lengths) <= SPARE * rows and capacity <= slots.capacity <= SPARE * capacity


def slot_of(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot


def check_tree(drafter: Drafter | None, tree: int | None) -> int | None:
    """A number of nodes for a drafter that can draft trees; 0 and None as Engine takes them."""
    if not tree:
        return tree
    if not 0 < tree <= MOST_NODES:
        raise UserError(f"a tree has 1 to {MOST_NODES} nodes, not {tree}; 0 stands for chains only")
    if drafter is None or not (drafter.parallel or isinstance(drafter, BranchingDrafter)):
        raise UserError("a tree needs a drafter that can draft one (dflash, pard, pard2, eagle3); leave --tree out")
    return tree


def check_request(request: Request, target: Target, what: str) -> None:
    """A prompt must have a token and leave room for its answer in the target's context; `what` names it in errors."""
    new, tokens = request.max_new_tokens, len(request.prompt)
    if new < 1:
        raise UserError(f"max new tokens must be at least 1, not {new}")
    if not tokens:
        raise UserError(f"{what} is empty")
    if tokens + new > target.context_length:
        raise UserError(
            f"{what} has {tokens} tokens; with {new} new ones that is more than the context of "
            f"{target.context_length} of target {target.name}: shorten it or lower --max-new-tokens"
        )
