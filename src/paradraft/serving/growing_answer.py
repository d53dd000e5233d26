"""An answer as it grows: from the engine's updates to pieces of text with their log-probabilities and rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..decoding.logprobs import Logprob
from ..decoding.request import Round
from ..text.detokenize import Detokenizer, StopStrings, token_text
from .engine_thread import Update
from .metrics import judged


@dataclass(frozen=True)
class Piece:
    """What one round adds to answer `index`; reason: why it ends here, None: it goes on. round: see `shown_round`."""

    index: int
    text: str
    logprobs: Sequence[Logprob] = ()
    reason: str | None = None
    round: dict[str, Any] | None = None


@dataclass
class Counts:
    """Tokens of an answer, its stop token included, and what became of the drafts."""

    tokens: int = 0
    accepted: int = 0
    rejected: int = 0


@dataclass(eq=False)
class GrowingAnswer:
    """One answer of a request. `logprobs`, `rounds`: whether its pieces have them. before: as Detokenizer takes it."""

    index: int
    tokenizer: PreTrainedTokenizerBase
    stops: Sequence[str] = ()
    skip_special_tokens: bool = True
    logprobs: bool = False
    rounds: bool = False
    before: Sequence[int] = ()
    counts: Counts = field(default_factory=Counts)
    ended: bool = False

    def __post_init__(self) -> None:
        self._text = Detokenizer(self.tokenizer, self.skip_special_tokens, self.before)
        self._stops = StopStrings(self.stops)

    def take(self, update: Update) -> Piece:
        """The next piece. An answer that ends by a stop string ends here, though the engine would go on."""
        written = update.tokens[:-1] if update.finished and update.stopped else update.tokens
        texts, sure = list[str](), ""
        for token in written:
            texts.append(self._text.push(token))
            sure += self._stops.push(texts[-1])
            if self._stops.found:
                break
        reason = None
        if update.finished and not self._stops.found:
            rest = self._text.finish()
            sure += self._stops.push(rest) + self._stops.finish()
            texts = [*texts[:-1], texts[-1] + rest] if texts else texts
            reason = "stop" if update.stopped else "length"
        if self._stops.found:
            reason = "stop"
        self.ended = reason is not None
        if self._stops.found:  # nothing behind counts, as behind a stop token
            shortened = None if update.round is None else replace(update.round, emitted=len(texts))
            update = replace(update, tokens=update.tokens[: len(texts)], round=shortened)
        self._count(update)
        logprobs = update.logprobs[: len(texts)] if self.logprobs and update.logprobs else ()
        shown = shown_round(self.tokenizer, update, texts) if self.rounds else None
        return Piece(self.index, sure, logprobs, reason, shown)

    def _count(self, update: Update) -> None:
        self.counts.tokens += len(update.tokens)
        if update.round is not None:
            self.counts.accepted += update.round.kept
            self.counts.rejected += len(update.round.drafted) - update.round.kept


def shown_round(tokenizer: PreTrainedTokenizerBase, update: Update, texts: list[str]) -> dict[str, Any]:
    """A round for those who watch: the texts of accepted drafts, of the target's own token, of rejected drafts.

    drafted: tokens of the draft, of a tree its nodes. judged: how many places ahead were kept or not (the text may end
    before). rejected: of a chain only, and none behind the end of the text. seconds: since the prefill, of the steps
    that this answer was in. The first token, which the prefill brings, is `own` as well.
    """
    done = update.round or Round((), 0, 1)
    kept = done.kept
    return {
        "accepted": texts[:kept],
        "own": "".join(texts[kept:]),
        "rejected": [] if done.clipped else [token_text(tokenizer, token)[0] for token in done.rejected],
        "drafted": len(done.drafted),
        "judged": judged(done),
        "kept": kept,
        "tokens": len(update.tokens),
        "prefill": update.round is None,
        "seconds": round(update.seconds, 6),
    }


def usage(prompt_tokens: int, counts: Sequence[Counts]) -> dict[str, Any]:
    """OpenAI's usage; accepted and rejected drafts have the fields that OpenAI has for predicted outputs."""
    written = sum(one.tokens for one in counts)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
        "completion_tokens_details": {
            "accepted_prediction_tokens": sum(one.accepted for one in counts),
            "rejected_prediction_tokens": sum(one.rejected for one in counts),
        },
    }
