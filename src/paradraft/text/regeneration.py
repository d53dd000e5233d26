"""From prompts to one file of the target's answers, with its provenance beside it; a run that was killed goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UserError
from ..files import replaced_file
from ..models.chat import DATE_NOTE, ChatText
from .answers import Answerer, Job, plan_units, prompts_hash, run_units
from .conversations import Conversation, turns_of
from .endpoint import Endpoint
from .journal import Journal, check_same_settings, remove_journal
from .provenance import Provenance, TargetIdentity, content_hash, read_provenance, write_provenance
from .render import render_prompt
from .sources import Bad, Reading, check_bad_share, read_source

ROWS_REFILLED = 4  # answers of a unit to a row of the engine: rows idle only while a unit ends


@dataclass(frozen=True)
class Respondent:
    """An answerer with what is needed to ask it; `who` joins the settings that a resumed run must share.

    workers: requests under way at a time; 1 is the embedded engine, which answers in batches instead.
    """

    answerer: Answerer
    chat: ChatText
    context_length: int
    workers: int
    who: dict[str, Any]


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are written. sampling: temperature, top_k and top_p; batch_size: of the embedded engine."""

    max_new_tokens: int
    sampling: dict[str, Any]
    batch_size: int = 16
    seed: int = 0


class Prompts:
    """The conversations of several sources, to be answered; a share of their records may be bad and left out."""

    def __init__(self, names: Sequence[str], limit: int | None, max_bad_share: float) -> None:
        self.names, self.max_bad_share = list(names), max_bad_share
        self.readings = [read_source(name, limit, prompts=True) for name in names]
        self.check()

    def check(self) -> list[str]:
        """What was left out, in sentences; UserError where that is more than the tolerated share."""
        return check_bad_share(self.readings, self.max_bad_share, self.names)

    @property
    def conversations(self) -> list[Conversation]:
        return [conversation for reading in self.readings for conversation in reading.conversations]

    def first_lengths(self, chat: ChatText) -> list[int]:
        """Tokens of each conversation's first prompt; one that the template refuses joins the bad records."""
        return [length for reading in self.readings for length in first_lengths(chat, reading)]


def first_lengths(chat: ChatText, reading: Reading) -> list[int]:
    lengths, kept = [], []
    for conversation in reading.conversations:
        turns = turns_of(conversation)
        try:
            if not turns:
                raise UserError("there is no user message in front of the first result of a tool")
            lengths.append(len(render_prompt(chat, turns[0], conversation.tools)))
            kept.append(conversation)
        except UserError as error:
            reading.bad.append(Bad(conversation.place, str(error)))
    reading.conversations = kept
    return lengths


class Regeneration:
    """One output file on its way: `answer`, then `finish`, inside `with`, which closes the journal on any error.

    `finished`: an earlier run with the same settings wrote the whole file; there is nothing to do. `notes`: what the
    user should know before the work begins. `done`: conversations that an earlier run has answered.
    """

    def __init__(
        self, out: Path, target: TargetIdentity, prompts: Prompts, respondent: Respondent, settings: AnswerSettings
    ) -> None:
        self.out, self.target, self.prompts, self.respondent = out, target, prompts, respondent
        self.notes = [DATE_NOTE] if respondent.chat.writes_today else []
        lengths = prompts.first_lengths(respondent.chat)
        self.notes += prompts.check()
        self.conversations = prompts.conversations
        self.settings = settings
        self.shared = self._shared_settings()
        self.finished = self._is_finished()
        if self.finished:
            remove_journal(out)
            return
        self.journal = Journal(out, self.shared)
        self.done = len(self.journal.done())
        longest = respondent.context_length - settings.max_new_tokens
        self.job = Job(self.conversations, respondent.chat, longest, settings.seed)
        in_rows = respondent.workers == 1
        unit_size = settings.batch_size * ROWS_REFILLED
        self.units = plan_units(lengths, unit_size) if in_rows else [[i] for i in range(len(lengths))]
        self.refused: list[str] = []

    def __enter__(self) -> Regeneration:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            if isinstance(self.respondent.answerer, Endpoint):
                self.respondent.answerer.give_up()
            self.journal.close()

    def answer(self, report: Callable[[int, int], None] = lambda conversations, tokens: None) -> list[str]:
        """Answer what is left; `report` is told (conversations, tokens) of each unit. Returns why some were refused."""
        refusals = int(self.prompts.max_bad_share * len(self.conversations))
        workers = self.respondent.workers
        self.refused = run_units(
            self.job, self.units, self.respondent.answerer, self.journal, report, workers, refusals
        )
        return self.refused

    def finish(self) -> dict[str, int]:
        """Write the file and its provenance; sums over all answers, by name."""
        totals = self.journal.totals()
        if not totals.get("answers"):
            self.journal.remove()
            if self.refused:
                raise UserError(self.refused[0])
            raise UserError(
                f"no prompt leaves room for an answer of {self.settings.max_new_tokens} tokens; lower --max-new-tokens"
            )
        with replaced_file(self.out) as written:
            self.journal.write_output(written)
            write_provenance(self.out, replace(self._provenance(totals), content=content_hash(written)))
        self.journal.remove()
        return totals

    def _shared_settings(self) -> dict[str, Any]:
        """All that the answers depend on; a run goes on only where all of it is the same."""
        settings, chat = self.settings, self.respondent.chat
        return {
            "target": asdict(self.target),
            "date": chat.date and chat.date.isoformat(),  # first: it changes the template
            "template_hash": chat.template_hash,
            "thinking": chat.thinking,
            "prompts": prompts_hash(self.conversations),
            **settings.sampling,
            "max_new_tokens": settings.max_new_tokens,
            "seed": settings.seed,
            **self.respondent.who,
        }

    def _is_finished(self) -> bool:
        """The output is there and was made with these settings; any other file in its place is an error."""
        if not self.out.exists():
            return False
        found = read_provenance(self.out)
        if found is None or "settings" not in found.details:
            raise UserError(f"{self.out} exists and is no file of this command; choose another --out or remove it")
        check_same_settings(found.details["settings"], self.shared, self.out)
        return True

    def _provenance(self, totals: dict[str, int]) -> Provenance:
        answerer = self.respondent.answerer
        details = {
            "settings": self.shared,
            "prompts": self.prompts.names,
            "conversations": len(self.conversations),
            **totals,
            "endpoint": answerer.url if isinstance(answerer, Endpoint) else None,
            "versions": {name: version(name) for name in ("paradraft", "torch", "transformers")},
        }
        return Provenance(self.target, self.shared["template_hash"], self.shared["thinking"], details)
