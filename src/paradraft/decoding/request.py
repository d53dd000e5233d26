"""A text that is asked for, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from .logprobs import Logprob
from .sampling import Sampling


@dataclass(frozen=True)
class Request:
    """Answer `prompt` (token ids) with at most `max_new_tokens`.

    `stops`: tokens that end the answer, None: the target's. It may leave with `enough` tokens, while its drafts are
    still as long as `max_new_tokens` lets them be. `seed` of its noise; None: the engine gives every request another.
    `logprobs`: its events have them, with so many of the likeliest tokens at each place.
    """

    prompt: Tokens[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: frozenset[int] | None = None
    enough: int | None = None
    seed: int | None = None
    logprobs: int | None = None


@dataclass(frozen=True)
class Round:
    """One row's part in one round: what was drafted, how many drafts were kept, how many tokens were emitted.

    `emitted` is `accepted + 1` (the target's own token), but for a text that ended inside the round. Of a tree
    `depth` is how deep it goes, None: a chain; `path` has the places of the accepted tokens in `drafted`.
    """

    drafted: tuple[int, ...]
    accepted: int
    emitted: int
    depth: int | None = None
    path: tuple[int, ...] = ()

    @property
    def kept(self) -> int:
        """How many drafted tokens stand in the text."""
        return min(self.accepted, self.emitted)

    @property
    def reach(self) -> int:
        """How many tokens ahead the longest drafted text went."""
        return len(self.drafted) if self.depth is None else self.depth

    @property
    def rejected(self) -> tuple[int, ...]:
        """The drafts behind the accepted ones; of a tree none, since its nodes are not one text."""
        return self.drafted[self.accepted :] if self.depth is None else ()

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


@dataclass(eq=False)
class Sequence:
    """A request on its way: waiting (no slot yet), running in its slot, or finished.

    Its newest token is the *anchor*: the target has not consumed it yet, so it has no features; the next verify forward
    consumes it together with the drafts. `key` and `drawn` say where its noise goes on. `followed`: the drafter reads
    its tokens; where that does not pay it is given up, and the sequence is decoded plainly to its end.
    """

    request: Request
    stops: frozenset[int]
    key: int
    drawn: int = 0
    followed: bool = True
    slot: int | None = None
    finished: bool = False
    generation: Generation = field(default_factory=Generation)

    @property
    def anchor(self) -> int:
        return self.generation.tokens[-1]

    @property
    def room(self) -> int:
        """Tokens that may still be emitted."""
        return self.request.max_new_tokens - len(self.generation.tokens)

    def emit(
        self,
        tokens: list[int],
        drafted: Tokens[int] | None,
        depth: int | None = None,
        path: Tokens[int] = (),
    ) -> list[int]:
        """Append what a round brought, up to the end of the answer; what was appended.

        The answer ends at a stop token, at its limit, or with enough tokens. `drafted`, `depth` and `path`: of the
        round as Round has them; without drafts (None) it is the prefill.
        """
        accepted, generation = len(tokens) - 1, self.generation
        tokens = tokens[: self.room]
        stop = next((n for n, token in enumerate(tokens, 1) if token in self.stops), None)
        tokens = tokens[:stop]
        generation.tokens += tokens
        generation.stopped = stop is not None
        if drafted is not None:
            generation.rounds.append(Round(tuple(drafted), accepted, len(tokens), depth, tuple(path)))
        enough = min(self.request.enough or self.request.max_new_tokens, self.request.max_new_tokens)
        self.finished = generation.stopped or len(generation.tokens) >= enough
        return tokens


@dataclass(frozen=True)
class Event:
    """`sequence` went on by `tokens`; see `sequence.finished`. `logprobs`: of each token, if they were asked for."""

    sequence: Sequence
    tokens: list[int]
    logprobs: tuple[Logprob, ...] | None = None
