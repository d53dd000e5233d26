"""What is counted while serving, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from ..decoding.request import Round

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)


class Metrics:
    """One registry a server. Threads may share it."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("paradraft_requests", "HTTP requests", ["endpoint", "status"], registry=registry)
        self.answers = Counter("paradraft_answers", "Answers, by how they ended", ["reason"], registry=registry)
        self.tokens = Counter("paradraft_tokens", "Tokens read and written", ["kind"], registry=registry)
        self.rounds = Counter("paradraft_rounds", "Rounds of sequences, drafted or plain", registry=registry)
        self.emitted = Histogram(
            "paradraft_emitted_length",
            "Tokens that a round with a drafter brought, the target's own included",
            buckets=LENGTHS,
            registry=registry,
        )
        self.drafted = Counter("paradraft_drafted", "Rounds that judged this draft", ["position"], registry=registry)
        self.accepted = Counter("paradraft_accepted", "Rounds that kept this draft", ["position"], registry=registry)
        self.waiting = Gauge("paradraft_waiting", "Answers that wait for a row", registry=registry)
        self.running = Gauge("paradraft_running", "Answers that have a row", registry=registry)
        self.rows = Gauge("paradraft_rows", "Rows there are", registry=registry)
        self.queue_seconds = self._seconds("queue", "From a request to its row")
        self.first_seconds = self._seconds("first_token", "From a request to its first token")
        self.answer_seconds = self._seconds("answer", "From a request to the end of its answer")
        self.step_seconds = self._seconds("step", "A step of the engine")

    def _seconds(self, name: str, meaning: str) -> Histogram:
        return Histogram(f"paradraft_{name}_seconds", meaning, buckets=SECONDS, registry=self.registry)

    def began(self, prompt_tokens: int, seconds: float) -> None:
        """An answer has its first token."""
        self.tokens.labels("read").inc(prompt_tokens)
        self.first_seconds.observe(seconds)

    def round(self, done: Round, drafting: bool) -> None:
        """`drafting`: a drafter is there. Counted as `evaluation.statistics` does it: drafts behind an end are not."""
        self.rounds.inc()
        if drafting:
            self.emitted.observe(done.emitted)
        kept = done.kept
        for position in range(1, judged(done) + 1):
            self.drafted.labels(str(position)).inc()
            if position <= kept:
                self.accepted.labels(str(position)).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)


def judged(done: Round) -> int:
    """How many places ahead the drafts of a round were kept or not; behind the end of a text none is."""
    return done.kept if done.clipped else done.reach
