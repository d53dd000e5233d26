"""The one thread in which everything is decoded: it alone touches the engines.

A job is one answer. Others hand jobs in, take them back, and are told of every round by `deliver`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from ..decoding import DraftLength, Engine, Event, Request
from ..decoding.logprobs import Logprob
from ..decoding.request import Round, Sequence
from ..drafters import Drafter
from ..models import Target
from .memory import trimmer
from .metrics import Metrics

log = logging.getLogger(__name__)
HOPELESS = 3  # steps that fail one after the other


@dataclass(frozen=True)
class Drafting:
    """How answers are drafted: by which drafter (None: by none), how much, and by which rule drafts are kept.

    draft_length and acceptance as Engine takes them.
    """

    drafter: str | None = None
    draft_length: DraftLength | None = None
    acceptance: str | None = None


@dataclass(eq=False)
class Job:
    """seconds: how long its steps have taken so far, without any prefill."""

    request: Request
    drafting: Drafting
    asked: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    told: int = 0  # events


@dataclass(frozen=True)
class Update:
    """What a job went on by. round: None for the first token, which the prefill brings.

    stopped: by a stop token, the last of `tokens`. failed: it ends without an answer.
    """

    job: Job
    tokens: list[int] = field(default_factory=list)
    logprobs: tuple[Logprob, ...] | None = None
    round: Round | None = None
    seconds: float = 0.0
    finished: bool = False
    stopped: bool = False
    failed: bool = False


@dataclass(eq=False)
class Lane:
    """An engine and the jobs in it. spent: seconds of the thread by its number of jobs; the least comes next."""

    engine: Engine
    jobs: dict[Sequence, Job] = field(default_factory=dict)
    spent: float = 0.0


class Full(Exception):
    """There is no room for more jobs; `seconds`: when there may be."""

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.seconds = seconds


class EngineThread:
    """At most `max_rows` jobs run at a time, at most `max_queue` wait, first come, first served.

    Every way to draft that is in use has an engine of its own; they take turns.
    """

    def __init__(
        self,
        target: Target,
        drafters: Mapping[str, Drafter],
        usual: Drafting,
        max_rows: int,
        max_queue: int,
        metrics: Metrics,
        deliver: Callable[[list[Update]], None],
    ) -> None:
        self.target, self.drafters, self.usual = target, drafters, usual
        self.metrics, self.deliver = metrics, deliver
        self.max_rows, self.max_queue = max_rows, max_queue
        self.failures = 0
        self._lock = threading.Lock()
        self._open, self._live = True, set[Job]()  # under the lock; all that follows belongs to the thread
        self._commands: SimpleQueue[tuple[str, list[Job]]] = SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._lanes: dict[Drafting, Lane] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._mean_seconds = 1.0  # of an answer
        metrics.rows.set(max_rows)

    # --- from any thread ------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End what runs and wait for the thread."""
        self._commands.put(("stop", []))
        self._thread.join()

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and self.failures < HOPELESS

    def submit(self, jobs: list[Job]) -> None:
        """Take all of these jobs, or raise Full."""
        with self._lock:
            if not self._open or len(self._live) + len(jobs) > self.max_rows + self.max_queue:
                raise Full(max(1, min(60, round(self._mean_seconds * len(self._live) / self.max_rows))))
            self._live.update(jobs)
        self._commands.put(("add", jobs))

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Let jobs end before the next step, wherever they are; those that ended are left alone."""
        self._take_away("cancel", jobs)

    def finish(self, jobs: Iterable[Job]) -> None:
        """The same for jobs whose answers are complete, by what the engine does not know: a stop string."""
        self._take_away("finish", jobs)

    def _take_away(self, what: str, jobs: Iterable[Job]) -> None:
        with self._lock:
            jobs = [job for job in jobs if job in self._live]
        if jobs:
            self._commands.put((what, jobs))

    # --- in the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        give_back = trimmer()
        try:
            while self._obey():
                give_back()
                self._admit()
                self._step()
        finally:
            with self._lock:
                self._open, left = False, list(self._live)
            try:
                self._drop(left, "cancelled")
            finally:  # also where the engine raises again: who waits is told
                self._live.clear()
                self._count()
                self.deliver([Update(job, finished=True, failed=True) for job in left])

    def _obey(self) -> bool:
        """Do what others asked for, and wait for it if there is nothing else to do; False: stop."""
        try:
            while True:
                idle = not self._waiting and not self._running()
                what, jobs = self._commands.get(block=idle)
                if what == "stop":
                    return False
                if what == "add":
                    self._waiting.extend(jobs)
                elif what == "finish":
                    self._took(self._drop(jobs, "stop"))
                else:
                    self._drop(jobs, "cancelled")
                self._count()
        except Empty:
            return True

    def _admit(self) -> None:
        while self._waiting and self._running() < self.max_rows:
            job = self._waiting.popleft()
            try:
                lane = self._lane(job.drafting)
                lane.jobs[lane.engine.add(job.request)] = job
            except Exception:
                log.exception("the engine does not take an answer that was asked for")
                self._end([job], "failed")
                self.deliver([Update(job, finished=True, failed=True)])
                continue
            self.metrics.queue_seconds.observe(time.perf_counter() - job.asked)
            self._count()

    def _lane(self, drafting: Drafting) -> Lane:
        """The lane of a way to draft; one that was idle begins level with the busy lane that has had least time."""
        lane = self._lanes.get(drafting)
        if lane is None:
            drafter = None if drafting.drafter is None else self.drafters[drafting.drafter]
            length, rule = drafting.draft_length, drafting.acceptance
            lane = Lane(Engine(self.target, drafter, draft_length=length, acceptance=rule))
            self._lanes[drafting] = lane
        if not lane.jobs:
            lane.spent = min((other.spent for other in self._lanes.values() if other.jobs), default=0.0)
        return lane

    def _step(self) -> None:
        """One step of the lane that has had least time; while the thread waits nothing here holds one."""
        busy = [lane for lane in self._lanes.values() if lane.jobs]
        if not busy:
            return
        lane = min(busy, key=lambda lane: lane.spent)
        decoded, began = lane.engine.seconds.decode, time.perf_counter()
        try:
            events = lane.engine.step()
        except Exception:
            log.exception("a step of the engine failed; the answers that were in it end")
            self.failures += 1
            self._fail(lane)
            return
        self.failures = 0
        elapsed = time.perf_counter() - began
        self.metrics.step_seconds.observe(elapsed)
        lane.spent += elapsed / len(lane.jobs)
        for job in lane.jobs.values():  # without the prefill, and without what `auto` measures when an engine is new
            job.seconds += lane.engine.seconds.decode - decoded
        last = {event.sequence: event for event in events}
        self.deliver([self._update(lane, event, last[event.sequence] is event) for event in events])
        self._count()

    def _update(self, lane: Lane, event: Event, last: bool) -> Update:
        """What an event tells; `last`: of its sequence in this step."""
        sequence, job = event.sequence, lane.jobs[event.sequence]
        done = sequence.generation.rounds[job.told - 1] if job.told else None
        since = time.perf_counter() - job.asked
        if done is None:
            self.metrics.began(len(job.request.prompt), since)
        else:
            self.metrics.round(done, job.drafting.drafter is not None)
        self.metrics.tokens.labels("written").inc(len(event.tokens))
        job.told += 1
        finished = last and sequence.finished
        if finished:
            del lane.jobs[sequence]
            self._end([job], "stop" if sequence.generation.stopped else "length")
            self._took([job])
        return Update(job, event.tokens, event.logprobs, done, job.seconds, finished, sequence.generation.stopped)

    def _took(self, jobs: list[Job]) -> None:
        for job in jobs:
            since = time.perf_counter() - job.asked
            self.metrics.answer_seconds.observe(since)
            self._mean_seconds += 0.1 * (since - self._mean_seconds)

    def _drop(self, jobs: list[Job], reason: str) -> list[Job]:
        """Those that others ended, as far as they had not ended by themselves; returns these."""
        gone = set(jobs)
        waiting = [job for job in self._waiting if job in gone]
        self._waiting = deque(job for job in self._waiting if job not in gone)
        dropped = list(waiting)
        for lane in self._lanes.values():
            running = {sequence: job for sequence, job in lane.jobs.items() if job in gone}
            lane.engine.cancel(list(running))
            for sequence in running:
                del lane.jobs[sequence]
            dropped += running.values()
        self._end(dropped, reason)
        return dropped

    def _fail(self, lane: Lane) -> None:
        """An engine whose step failed is in no known state: it goes, and its jobs with it."""
        del self._lanes[next(drafting for drafting, other in self._lanes.items() if other is lane)]
        jobs = list(lane.jobs.values())
        self._end(jobs, "failed")
        self.deliver([Update(job, finished=True, failed=True) for job in jobs])
        self._count()

    def _end(self, jobs: list[Job], reason: str) -> None:
        with self._lock:
            self._live.difference_update(jobs)
        self.metrics.answers.labels(reason).inc(len(jobs))

    def _running(self) -> int:
        return sum(len(lane.jobs) for lane in self._lanes.values())

    def _count(self) -> None:
        """Show how full it is, and let idle engines go but for the usual one: they hold keys and values."""
        self.metrics.waiting.set(len(self._waiting))
        self.metrics.running.set(self._running())
        for drafting in [d for d, lane in self._lanes.items() if not lane.jobs and d != self.usual]:
            del self._lanes[drafting]
