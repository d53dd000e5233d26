"""The engine's thread: the same tokens as without it, a queue with an end, jobs that leave, steps that fail."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from paradraft.decoding import Engine, Event, Request, Sampling
from paradraft.decoding.costs import MeasuredCosts
from paradraft.decoding.request import Round
from paradraft.models import Target
from paradraft.serving.engine_thread import Drafting, EngineThread, Full, Job, Update, log
from paradraft.serving.metrics import Metrics
from tests.conftest import make_drafter

PROMPTS = [[4, 9, 2], [7], [5, 5, 8, 2, 30, 4], [1, 2]]
DRAFTED = Drafting("d", 4)


class Watcher:
    """Keeps what a thread delivers."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.changed = threading.Condition()

    def __call__(self, updates: list[Update]) -> None:
        with self.changed:
            self.updates += updates
            self.changed.notify_all()

    def of(self, job: Job) -> list[Update]:
        return [update for update in self.updates if update.job is job]

    def wait(self, *jobs: Job) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: all(any(u.finished for u in self.of(job)) for job in jobs), 120)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def thread(target: Target, watcher: Watcher) -> Iterator[EngineThread]:
    found = EngineThread(target, {"d": make_drafter(target)}, DRAFTED, 2, 3, Metrics(), watcher)
    found.start()
    yield found
    found.stop()


def job(prompt: list[int], new: int = 20, drafting: Drafting = DRAFTED, seed: int | None = None) -> Job:
    sampling = Sampling(0.0 if seed is None else 1.2)
    return Job(Request(prompt, new, sampling, frozenset(), seed=seed), drafting)


def held_steps(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Semaphore, threading.Semaphore]:
    """Steps that say when they begin, and then wait to be let go."""
    step, in_step, go = Engine.step, threading.Semaphore(0), threading.Semaphore(0)

    def slow(engine: Engine) -> list[Event]:
        in_step.release()
        assert go.acquire(timeout=120)
        return step(engine)

    monkeypatch.setattr(Engine, "step", slow)
    return in_step, go


def test_the_same_as_offline_in_all_lanes(target: Target, thread: EngineThread, watcher: Watcher) -> None:
    """Greedy and sampled, with a drafter, with shorter drafts, without one; all at once, more than there are rows."""
    plain = Drafting()
    jobs = [job(PROMPTS[0]), job(PROMPTS[1], seed=5), job(PROMPTS[2], drafting=plain), job(PROMPTS[3], 9, plain, 7)]
    jobs.append(job(PROMPTS[0], drafting=Drafting("d", 2)))
    thread.submit(jobs)
    watcher.wait(*jobs)
    for one in jobs:
        request, updates = one.request, watcher.of(one)
        drafter = None if one.drafting.drafter is None else make_drafter(target)
        engine = Engine(target, drafter, request.sampling, one.drafting.draft_length)
        (wanted,) = engine.generate([request.prompt], request.max_new_tokens, (), seeds=[request.seed or 0])
        assert [token for update in updates for token in update.tokens] == wanted.tokens
        assert updates[0].round is None and [update.round for update in updates[1:]] == wanted.rounds
        assert [update.finished for update in updates] == [False] * (len(updates) - 1) + [True]
        assert updates[-1].seconds > 0
    assert set(thread._lanes) == {DRAFTED}  # idle engines but the usual one are given back


def test_the_queue_has_an_end(thread: EngineThread, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: (go.wait(120), step(engine))[1])
    jobs = [job(PROMPTS[0]) for _ in range(5)]
    thread.submit(jobs[:4])
    with pytest.raises(Full) as full:
        thread.submit([job(PROMPTS[1]), job(PROMPTS[1])])
    assert full.value.seconds >= 1
    thread.submit(jobs[4:])
    thread.cancel([jobs[3]])
    go.set()
    watcher.wait(*jobs[:3], jobs[4])
    assert not watcher.of(jobs[3])
    thread.submit([job(PROMPTS[1])])


def test_a_cancelled_job_leaves_before_the_next_step(
    thread: EngineThread, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_step, go = held_steps(monkeypatch)
    first, second, third = (job(prompt, 30) for prompt in PROMPTS[:3])
    thread.submit([first, second, third])  # there are two rows
    in_step.acquire(timeout=120)
    thread.cancel([first])
    go.release()  # the step that was under way
    in_step.acquire(timeout=120)
    told = len(watcher.of(first))
    assert thread._running() == 2 and first not in thread._lanes[DRAFTED].jobs.values()
    for _ in range(100):
        go.release()
    watcher.wait(second, third)
    assert len(watcher.of(first)) == told


def test_a_step_that_fails_ends_its_jobs_only(
    target: Target, thread: EngineThread, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Engine.step

    def failing(engine: Engine) -> list[Event]:
        if engine.drafter is not None and engine.draft_length == 1:
            raise RuntimeError("out of memory")
        return step(engine)

    monkeypatch.setattr(Engine, "step", failing)
    good, bad = job(PROMPTS[0]), job(PROMPTS[1], drafting=Drafting("d", 1))
    thread.submit([good, bad])
    watcher.wait(good, bad)
    assert [update.failed for update in watcher.of(bad)] == [True]
    (wanted,) = Engine(target).generate([PROMPTS[0]], 20, ())
    assert [token for update in watcher.of(good) for token in update.tokens] == wanted.tokens
    assert thread.healthy and not thread._live
    for _ in range(3):
        bad = job(PROMPTS[1], drafting=Drafting("d", 1))
        thread.submit([bad])
        watcher.wait(bad)
    assert not thread.healthy


def test_an_idle_thread_holds_no_engine_that_failed(
    thread: EngineThread, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step without memory its keys and values are what must go."""
    failed: list[weakref.ref[Engine]] = []

    def failing(engine: Engine) -> list[Event]:
        failed.append(weakref.ref(engine))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Engine, "step", failing)
    monkeypatch.setattr(log, "exception", lambda text: None)  # pytest keeps what is logged, with all frames
    bad = job(PROMPTS[0])
    thread.submit([bad])
    watcher.wait(bad)
    ended = time.monotonic() + 60
    while failed[0]() is not None:
        assert time.monotonic() < ended
        time.sleep(0.01)
        gc.collect()


def test_an_answer_that_is_ended_twice_counts_once(
    thread: EngineThread, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_step, go = held_steps(monkeypatch)
    first, second = job(PROMPTS[0], 30), job(PROMPTS[1], 3)
    thread.submit([first, second])
    in_step.acquire(timeout=120)
    thread.finish([first])
    thread.finish([first])
    for _ in range(100):
        go.release()
    watcher.wait(second)
    registry = thread.metrics.registry
    assert registry.get_sample_value("paradraft_answer_seconds_count") == 2
    assert registry.get_sample_value("paradraft_answers_total", {"reason": "stop"}) == 1


def test_a_job_that_no_engine_takes_ends_alone(thread: EngineThread, watcher: Watcher) -> None:
    good, bad = job(PROMPTS[0]), job([3] * 250, 100)  # more than the context
    thread.submit([bad, good])
    watcher.wait(good, bad)
    assert [update.failed for update in watcher.of(bad)] == [True]
    assert not watcher.of(good)[-1].failed and thread.healthy and not thread._live


def test_stopping_ends_what_runs(target: Target, watcher: Watcher) -> None:
    found = EngineThread(target, {}, Drafting(), 1, 5, Metrics(), watcher)
    found.start()
    jobs = [job(PROMPTS[0], 200, Drafting()), job(PROMPTS[1], 200, Drafting())]
    found.submit(jobs)
    while not watcher.updates:
        time.sleep(0.001)
    found.stop()
    assert all(watcher.of(one)[-1].failed for one in jobs)
    with pytest.raises(Full):
        found.submit([job(PROMPTS[0], 3, Drafting())])


def test_who_waits_is_told_also_where_the_engine_raises_again(
    target: Target, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = EngineThread(target, {}, Drafting(), 1, 5, Metrics(), watcher)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    found.start()
    jobs = [job(PROMPTS[0], 200, Drafting()), job(PROMPTS[1], 200, Drafting())]
    found.submit(jobs)
    while not watcher.updates:
        time.sleep(0.001)

    def cancel(self: Engine, sequences: Any) -> None:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(Engine, "cancel", cancel)
    found.cancel(jobs[:1])
    watcher.wait(*jobs)
    assert all(watcher.of(one)[-1].failed for one in jobs) and not found._live


def test_lanes_share_the_time(target: Target, watcher: Watcher) -> None:
    """An engine whose steps are longer gets fewer of them."""
    found = EngineThread(target, {"d": make_drafter(target)}, Drafting(), 4, 4, Metrics(), watcher)
    spent = {0: 0, 4: 0}
    step = Engine.step

    def timed(engine: Engine) -> list[Event]:
        spent[engine.draft_length] += 1
        time.sleep(0.02 if engine.draft_length else 0.002)
        return step(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", timed)
        found.start()
        plain, drafted = job(PROMPTS[0], 60, Drafting()), job(PROMPTS[0], 200)
        found.submit([plain, drafted])
        watcher.wait(plain)
        found.stop()
    assert spent[0] > 2 * spent[4]


def test_a_tree_is_counted_by_how_far_ahead_it_goes() -> None:
    """Four nodes, two tokens deep, of which the second node was kept."""
    metrics = Metrics()
    done = Round((5, 6, 7, 8), 1, 2, depth=2, path=(1,))
    metrics.round(done, True)
    lines = metrics.text().decode().splitlines()
    assert [line for line in lines if line.startswith("paradraft_drafted_total")] == [
        'paradraft_drafted_total{position="1"} 1.0',
        'paradraft_drafted_total{position="2"} 1.0',
    ]
    assert 'paradraft_accepted_total{position="1"} 1.0' in lines
    assert done.rejected == () and Round((5, 6, 7), 1, 2).rejected == (6, 7)


def test_a_lane_that_worked_for_hours_does_not_wait_for_a_new_one(target: Target, watcher: Watcher) -> None:
    """It was idle when the other one came; from then on they share the time."""
    found = EngineThread(target, {"d": make_drafter(target)}, DRAFTED, 4, 4, Metrics(), watcher)
    found.start()
    first = job(PROMPTS[0], 3)
    found.submit([first])
    watcher.wait(first)
    found._lanes[DRAFTED].spent = 3600.0
    other, usual = job(PROMPTS[1], 200, Drafting()), job(PROMPTS[0], 3)
    found.submit([other])
    while not watcher.of(other):
        time.sleep(0.001)
    found.submit([usual])
    watcher.wait(usual)
    assert not watcher.of(other)[-1].finished
    found.stop()


def test_measuring_costs_is_no_time_of_an_answer(
    target: Target, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto, measured = Drafting("d", "auto"), MeasuredCosts.prepare

    def slow(costs: MeasuredCosts, rows: int, sampled: bool) -> None:
        time.sleep(0.5)
        measured(costs, rows, sampled)

    found = EngineThread(target, {"d": make_drafter(target)}, auto, 4, 4, Metrics(), watcher)
    monkeypatch.setattr(MeasuredCosts, "prepare", slow)
    found.start()
    asked = job(PROMPTS[0], 3, auto)
    found.submit([asked])
    watcher.wait(asked)
    found.stop()
    assert 0 < asked.seconds < 0.5
