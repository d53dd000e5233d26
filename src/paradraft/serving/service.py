"""What lies between HTTP and the engine: requests become jobs, the engine's updates become answers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..decoding import DraftLength, Request, Sampling
from ..decoding.acceptance import check_acceptance
from ..decoding.length import AUTO, check_draft_length
from ..decoding.sampling import key_of
from ..drafters import Drafter
from ..errors import UserError
from ..models import Target
from ..models.names import shown_name
from ..text.render import render_prompt
from .engine_thread import Drafting, EngineThread, Full, Job, Update
from .errors import ApiError, internal_error
from .growing_answer import GrowingAnswer, Piece
from .metrics import Metrics
from .protocol import Asked, ChatRequest, CompletionRequest

COMPLETION_TOKENS = 16  # of a completion that does not say, as OpenAI has it
CONTEXT = 8  # tokens of a prompt behind which a completion's first one is decoded


@dataclass(frozen=True)
class Limits:
    """max_rows answers at a time, max_queue that wait; tokens of prompt and answer; bytes and seconds of a request."""

    max_rows: int = 16
    max_queue: int = 64
    max_length: int = 8192
    max_bytes: int = 4 << 20
    seconds: float = 600.0
    body_seconds: float = 30.0


class Service:
    """A target with its drafters, ready to be asked. Everything but its EngineThread lives in one event loop."""

    def __init__(
        self,
        target: Target,
        drafters: Mapping[str, Drafter],
        limits: Limits,
        draft_length: DraftLength | None = None,
        acceptance: str | None = None,
    ) -> None:
        self.target, self.drafters, self.chat = target, drafters, target.chat
        self.limits = replace(limits, max_length=min(limits.max_length, target.context_length))
        longest_token = max(map(len, target.chat.tokenizer.get_vocab()))
        self.most_characters = self.limits.max_length * longest_token
        self.metrics = Metrics()
        usual = next(iter(drafters), None)
        self.draft_length = draft_length
        self.usual = Drafting(
            usual, self._length(usual, AUTO if draft_length is None else draft_length), check_acceptance(acceptance)
        )
        self.thread = EngineThread(
            target, drafters, self.usual, limits.max_rows, limits.max_queue, self.metrics, self._deliver
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inboxes: dict[Job, asyncio.Queue[Update | None]] = {}
        self._timers: dict[Job, asyncio.TimerHandle] = {}  # by the first job of a request
        self._reader = ThreadPoolExecutor(1, "tokenizer")  # long texts must not stop the event loop

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.thread.start()

    async def stop(self) -> None:
        await asyncio.to_thread(self.thread.stop)
        self._reader.shutdown()

    # --- from a request to jobs -----------------------------------------------------------------------------------

    async def prompts(self, asked: Asked) -> list[list[int]]:
        """Token ids of what is to be continued; ApiError for what cannot be read."""
        assert self._loop is not None
        self._check_characters(asked)
        try:
            found = await self._loop.run_in_executor(self._reader, self._read, asked)
        except UserError as error:
            raise ApiError(400, str(error)) from None
        for prompt in found:
            wrong = next((token for token in prompt if not 0 <= token < self.target.vocabulary_size), None)
            if wrong is not None:
                most = self.target.vocabulary_size - 1
                raise ApiError(400, f"there is no token {wrong}: they go from 0 to {most}", "prompt", "invalid_value")
            if not prompt:
                raise ApiError(400, "the prompt is empty", "prompt", "invalid_value")
        return found

    def _check_characters(self, asked: Asked) -> None:
        """Refuse a text that has too many tokens whatever they are: reading it would cost time and memory."""
        if isinstance(asked, ChatRequest):
            characters, where = sum(len(message.content) for message in asked.messages), "messages"
        else:
            assert isinstance(asked, CompletionRequest)
            characters, where = max((len(p) for p in asked.prompt if isinstance(p, str)), default=0), "prompt"
        if characters > self.most_characters:
            raise ApiError(
                400,
                f"the prompt has {characters} characters, more than the {self.limits.max_length} tokens that this "
                "server takes can hold: shorten it",
                where,
                "context_length_exceeded",
            )

    def _read(self, asked: Asked) -> list[list[int]]:
        if isinstance(asked, ChatRequest):
            roles = {"developer": "system"}
            messages = [{"role": roles.get(m.role, m.role), "content": m.content} for m in asked.messages]
            return [render_prompt(self.chat, messages)]
        assert isinstance(asked, CompletionRequest)
        return [self._ids(prompt) if isinstance(prompt, str) else prompt for prompt in asked.prompt]

    def _ids(self, text: str) -> list[int]:
        """Bare text with what the tokenizer puts in front of one."""
        self.chat.encode(text)  # refuses what is no text
        return list(self.chat.tokenizer(text)["input_ids"])

    def jobs(self, asked: Asked, prompts: Sequence[Sequence[int]]) -> list[Job]:
        """n answers to each prompt, in that order."""
        self._check_model(asked.model)
        drafting = self._drafting(asked)
        temperature = 1.0 if asked.temperature is None else asked.temperature
        sampling = Sampling(temperature, max(0, asked.top_k or 0), asked.top_p or 1.0)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        logprobs = logprobs_asked(asked)
        count = len(prompts) * (asked.n or 1)
        if count > self.limits.max_rows + self.limits.max_queue:
            most = self.limits.max_rows + self.limits.max_queue
            raise ApiError(400, f"{count} answers in one request are too many: at most {most}", "n", "invalid_value")
        lengths = [self._answer_length(asked, len(prompt)) for prompt in prompts]
        return [
            Job(
                Request(prompt, length, sampling, None, None, key_of(seed, i * (asked.n or 1) + k), logprobs),
                drafting,
            )
            for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
            for k in range(asked.n or 1)
        ]

    def answers(self, asked: Asked, jobs: Sequence[Job]) -> list[GrowingAnswer]:
        """Where the updates of the jobs go. A completion's text goes on from its prompt, that of a chat does not."""
        skip = asked.skip_special_tokens is not False
        with_logprobs = logprobs_asked(asked) is not None
        tail = CONTEXT if isinstance(asked, CompletionRequest) else 0
        shown = skip, with_logprobs, asked.paradraft.rounds
        return [
            GrowingAnswer(
                index, self.chat.tokenizer, asked.stop or (), *shown, job.request.prompt[-tail:] if tail else ()
            )
            for index, job in enumerate(jobs)
        ]

    def _check_model(self, name: str) -> None:
        if name != self.target.name:
            message = f"the model {name[:100]} is not served here; {self.target.name} is"
            raise ApiError(404, message, "model", "model_not_found")

    def _answer_length(self, asked: Asked, prompt: int) -> int:
        """Tokens that an answer may have; for a chat that does not say, all that there is room for."""
        wanted = asked.max_tokens
        if isinstance(asked, ChatRequest):
            wanted = wanted or asked.max_completion_tokens
        room = self.limits.max_length - prompt
        length = wanted or (room if isinstance(asked, ChatRequest) else COMPLETION_TOKENS)
        if length > room or room < 1:
            raise ApiError(
                400,
                f"the prompt has {prompt} tokens; with {max(1, length)} of an answer that is more than the "
                f"{self.limits.max_length} that this server takes: shorten it or lower max_tokens",
                "messages" if isinstance(asked, ChatRequest) else "prompt",
                "context_length_exceeded",
            )
        return length

    def _drafting(self, asked: Asked) -> Drafting:
        """As the request says, else as the server was started."""
        wish = asked.paradraft
        name = wish.drafter if "drafter" in wish.model_fields_set else self.usual.drafter
        if name is not None and name not in self.drafters:
            known = ", ".join(self.drafters) or "none"
            raise ApiError(400, f"there is no such drafter here; there are: {known}", "paradraft.drafter")
        if name is None and wish.draft_length is not None:
            raise ApiError(400, "without a drafter there is no draft length", "paradraft.draft_length")
        length = wish.draft_length
        if length is None and name == self.usual.drafter:
            length = self.draft_length
        if length is None and (asked.seed is None or asked.temperature == 0):
            length = AUTO  # a seed gives the same sampled text again only where lengths do not depend on the clock
        try:
            return Drafting(name, self._length(name, length), self.usual.acceptance)
        except UserError as error:
            raise ApiError(400, str(error), "paradraft.draft_length", "invalid_value") from None

    def _length(self, name: str | None, length: DraftLength | None) -> DraftLength | None:
        """A length that this drafter can draft, None for what it was trained for; None without a drafter."""
        if name is None:
            return None
        return AUTO if length == AUTO else check_draft_length(self.drafters[name], length)

    # --- from jobs to answers -------------------------------------------------------------------------------------

    def submit(self, jobs: list[Job]) -> asyncio.Queue[Update | None]:
        """Let jobs be decoded; where their updates arrive, and None once their time is over."""
        inbox: asyncio.Queue[Update | None] = asyncio.Queue()
        self._inboxes.update(dict.fromkeys(jobs, inbox))
        try:
            self.thread.submit(jobs)
        except Full as full:
            self.release(jobs)
            if not self.thread.healthy:
                raise ApiError(503, "the engine has stopped; the server's log says why") from None
            message = "the server is full; try again later"
            raise ApiError(429, message, None, "server_full", retry_after=full.seconds) from None
        assert self._loop is not None
        self._timers[jobs[0]] = self._loop.call_later(self.limits.seconds, inbox.put_nowait, None)
        return inbox

    def release(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more; those that still run end before the engine's next step."""
        for job in jobs:
            self._inboxes.pop(job, None)
        timer = self._timers.pop(jobs[0], None)
        if timer is not None:
            timer.cancel()
        self.thread.cancel(jobs)

    async def pieces(
        self, jobs: Sequence[Job], answers: Sequence[GrowingAnswer], inbox: asyncio.Queue[Update | None]
    ) -> AsyncIterator[Piece]:
        """What the answers grow by, until all have ended; the caller releases the jobs."""
        answer_of = dict(zip(jobs, answers, strict=True))
        while not all(answer.ended for answer in answers):
            update = await inbox.get()
            if update is None:
                raise ApiError(504, f"the answer took more than {self.limits.seconds:g} seconds", None, "timeout")
            if update.failed:
                raise internal_error()
            answer = answer_of[update.job]
            if not answer.ended:
                yield answer.take(update)
            if answer.ended and not update.finished:
                self.thread.finish([update.job])

    def _deliver(self, updates: list[Update]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._hand_out, updates)

    def _hand_out(self, updates: list[Update]) -> None:
        for update in updates:
            inbox = self._inboxes.get(update.job)
            if inbox is not None:
                inbox.put_nowait(update)


def by_shown_name(drafters: Mapping[str, Drafter]) -> dict[str, Drafter]:
    """Drafters as clients may know them: without the folders they are in, and still no two alike."""
    found: dict[str, Drafter] = {}
    for name, drafter in drafters.items():
        shown = shown_name(name)
        found[shown if shown not in found else f"{shown} ({len(found) + 1})"] = drafter
    return found


def logprobs_asked(asked: Asked) -> int | None:
    """How many of the likeliest tokens come with each; None: no log-probabilities."""
    if isinstance(asked, ChatRequest):
        return (asked.top_logprobs or 0) if asked.logprobs else None
    assert isinstance(asked, CompletionRequest)
    return asked.logprobs
