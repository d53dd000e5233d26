"""From the sources of a run to its training examples, with notes on what was left out and what is doubtful."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config import DataSection
from ..errors import UserError
from ..models import Target
from ..models.chat import DATE_NOTE, ChatText
from .batches import cut, learnable, pack
from .conversations import Conversation
from .loops import has_looping_answer, trimmed
from .provenance import TargetIdentity, provenance_notes
from .render import Rendered, render_conversation
from .sources import Bad, Reading, check_bad_share, read_source, weighted


@dataclass(frozen=True)
class Examples:
    """What is trained on, notes for the user, and the template, flag and date it was rendered with.

    texts: hash of all token ids and masks; of the learned ids alone where the template writes today's date.
    """

    examples: list[Rendered]
    notes: list[str]
    template_hash: str
    thinking: bool | None
    date: datetime.date | None
    texts: str

    def description(self) -> str:
        """JSON for the run's directory: counts, hash, how the text was rendered, and the notes."""
        tokens = sum(len(example.input_ids) for example in self.examples)
        learned = sum(example.learned for example in self.examples)
        counts = {"examples": len(self.examples), "tokens": tokens, "learned_tokens": learned}
        how = {"template_hash": self.template_hash, "thinking": self.thinking, "date": self.date and str(self.date)}
        return json.dumps({**counts, "texts": self.texts, **how, "notes": self.notes}, indent=2) + "\n"


def prepare_examples(section: DataSection, target: Target, identity: TargetIdentity, seed: int) -> Examples:
    """Read, mix, render, cut and, if asked, pack. Raises UserError for bad data above the tolerated share."""
    chat = target.chat
    if (section.thinking, section.date) != (chat.thinking, chat.date):
        raise ValueError("load the target with the thinking flag and the date of the data section")
    names = [source.source for source in section.sources]
    readings = [read_source(name, section.limit) for name in names]
    rendered = [render_reading(chat, reading) for reading in readings]
    notes = check_bad_share(readings, section.max_bad_share, names)
    examples: list[Rendered] = []
    for number, (source, reading) in enumerate(zip(section.sources, readings, strict=True)):
        conversations, skipped = filtered(section, reading, rendered[number])
        notes += skipped
        again = names[:number].count(source.source)  # the same file named twice: another part of it
        mixed = weighted(conversations, source.weight, f"{seed}/{again}/{source.source}")
        examples += [example for conversation in mixed for example in conversation]
    longest = min(section.max_length, target.context_length)
    examples, shortened = shorten(examples, longest)
    examples, more = usable(examples, longest, ", ".join(names))
    for name in dict.fromkeys(names):
        notes += provenance_notes(name, identity, chat.template_hash, chat.thinking)
    if chat.writes_today:
        more.append(DATE_NOTE)
    if section.packing:
        rows = pack(examples, longest, seed)
        filled = sum(len(row.input_ids) for row in rows) / (longest * len(rows))
        more.append(f"{len(examples)} examples packed into {len(rows)} rows of {longest} tokens, {filled:.1%} filled")
        examples = rows
    texts = hash_texts([learned_alone(example) for example in examples] if chat.writes_today else examples)
    return Examples(examples, notes + shortened + more, chat.template_hash, chat.thinking, chat.date, texts)


def hash_texts(examples: Sequence[Rendered]) -> str:
    """16 hexadecimal digits over ids and masks of all examples, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.input_ids.astype(np.int64).tobytes())
        digest.update(example.loss_mask.tobytes())
    return digest.hexdigest()[:16]


def learned_alone(example: Rendered) -> Rendered:
    ids = example.input_ids[example.loss_mask]
    return Rendered(ids, np.ones(len(ids), dtype=np.bool_))


def filtered(
    section: DataSection, reading: Reading, rendered: Sequence[list[Rendered]]
) -> tuple[list[list[Rendered]], list[str]]:
    """The conversations of a source that are trained on, and how many are not; none at all is an error."""
    kept, reasons = [], Counter[str]()
    for conversation, examples in zip(reading.conversations, rendered, strict=True):
        reason = why_skipped(section, conversation, examples)
        if reason is not None:
            reasons[f"left out: {reason}"] += 1
        elif section.looping == "trim" and loops(conversation, examples):
            reasons["trimmed: an answer repeats itself"] += 1
            kept.append(trimmed(examples))
        else:
            kept.append(examples)
    notes = [f"{n} of {len(rendered)} conversations were {reason}" for reason, n in sorted(reasons.items())]
    if notes and not kept:
        raise UserError(f"nothing is left to train on: {'; '.join(notes)}")
    return kept, notes


def why_skipped(section: DataSection, conversation: Conversation, examples: Sequence[Rendered]) -> str | None:
    """Why a conversation is not trained on, in words; None where it is. A trimmed loop may also be cut."""
    if section.looping != "keep" and loops(conversation, examples):
        trimming = section.looping == "trim"
        return None if trimming else "an answer repeats itself (data.looping=trim keeps what stands before that)"
    if section.skip_cut and conversation.cut:
        return "the last answer was ended by a length limit (data.skip_cut=false keeps such)"
    return None


def loops(conversation: Conversation, examples: Sequence[Rendered]) -> bool:
    """Whether an answer repeats itself. Bare text is no answer and may."""
    return conversation.text is None and any(has_looping_answer(example) for example in examples)


def render_reading(chat: ChatText, reading: Reading) -> list[list[Rendered]]:
    """Examples of each conversation. One that the template refuses becomes a bad record of the reading."""
    rendered: list[list[Rendered]] = []
    kept: list[Conversation] = []
    for conversation in reading.conversations:
        try:
            rendered.append(render_conversation(chat, conversation))
            kept.append(conversation)
        except UserError as error:
            reading.bad.append(Bad(conversation.place, str(error)))
    reading.conversations = kept
    return rendered


def shorten(examples: list[Rendered], max_length: int) -> tuple[list[Rendered], list[str]]:
    """All examples cut to `max_length`, and a note on how much is lost."""
    short = [cut(example, max_length) for example in examples]
    count = sum(len(example.input_ids) > max_length for example in examples)
    if not count:
        return short, []
    written, learned = (sum(example.learned for example in held) for held in (examples, short))
    lost = (written - learned) / max(1, written)
    return short, [
        f"{count} of {len(examples)} examples are longer than {max_length} tokens and were cut: {lost:.1%} of "
        "the learned tokens are lost"
    ]


def usable(examples: list[Rendered], max_length: int, source: str) -> tuple[list[Rendered], list[str]]:
    """The examples with something to learn, and a note on the others. Raises UserError if nothing is learned."""
    kinds = Counter((learnable(example), example.learned > 0) for example in examples)
    if not kinds[True, True]:
        raise UserError(
            f"the loss mask is zero everywhere: no token of {source} was written by the assistant within "
            "data.max_length; raise it, or check the data and the chat template (paradraft data inspect)"
        )
    silent = sum(count for (learns, _), count in kinds.items() if not learns)
    notes = []
    if silent:
        notes.append(
            f"{silent} of {len(examples)} examples were left out: the target wrote less than two tokens of them within "
            f"{max_length}"
        )
    return [example for example in examples if learnable(example)], notes
