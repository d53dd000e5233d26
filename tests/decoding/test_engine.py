"""The engine: exactly the target's own tokens, exact ends, sequences that come and go."""

from __future__ import annotations

import random

import pytest
import torch

from paradraft.decoding import Engine, Request, Sampling
from paradraft.decoding.draft import Drafting
from paradraft.decoding.request import Sequence as RunningSequence
from paradraft.drafters import DFlash
from paradraft.errors import UserError
from paradraft.models import Target
from tests.conftest import FAMILIES, KINDS, make_drafter, make_drafter_of, make_model


def transformers_greedy(target: Target, prompt: list[int], new: int, stop: int | None = None) -> list[int]:
    output = target.model.generate(
        torch.tensor([prompt]), max_new_tokens=new, do_sample=False, eos_token_id=stop, pad_token_id=0
    )
    return [int(token) for token in output[0, len(prompt) :]]


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_decoding_equals_transformers(family: str) -> None:
    target = Target(make_model(family))
    prompts = [[3, 7, 9], [1], [5, 5, 8, 2, 30, 4]]
    for prompt, generation in zip(prompts, Engine(target).generate(prompts, 12, ()), strict=True):
        assert generation.tokens == transformers_greedy(target, prompt, 12)
        assert [r.emitted for r in generation.rounds] == [1] * 11


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_random_cases_are_lossless(family: str, kind: str) -> None:
    """Hundreds in all: random target, drafter, prompts, batch size, draft length; token for token."""
    rng = random.Random(family + kind)
    cases = 0
    while cases < (60 if kind == "dflash" else 20):
        seed = rng.randrange(10_000)
        target = Target(make_model(family, seed=seed, num_hidden_layers=rng.choice([2, 3, 4])))
        drafter = make_drafter_of(kind, target, rng.choice([1, 3, 7]), layers=rng.choice([1, 2]), seed=seed)
        drafter.set_mode(rng.choice(drafter.modes))
        lean = rng.random() < 0.5
        prompts = [[rng.randrange(1, 40) for _ in range(rng.randint(1, 9))] for _ in range(rng.choice([1, 2, 5]))]
        steps = rng.randint(1, drafter.max_draft)
        new = rng.randint(1, 24)
        tree = rng.choice([None, 1, 4, 11]) if drafter.parallel else None
        plain = Engine(target).generate(prompts, new, ())
        if lean:
            target.prepare_decoding()
            drafter.prepare_decoding()
        drafted = Engine(target, drafter, draft_length=steps, tree=tree).generate(prompts, new, ())
        for a, b in zip(plain, drafted, strict=True):
            assert a.tokens == b.tokens and len(a.tokens) == new
            assert sum(r.emitted for r in b.rounds) == new - 1
            assert all(len(r.drafted) <= (tree or steps) and r.reach <= steps for r in b.rounds)
            cases += 1


class Oracle(DFlash):
    """Drafts what it was told the target will say, up to a wrong token at every `wrong_every`-th place."""

    def prepare(self, texts: list[list[int]], wrong_every: int) -> None:
        self.texts, self.wrong_every = texts, wrong_every

    def draft_hidden(self, state, slots, anchors, steps):  # type: ignore[no-untyped-def]
        raise AssertionError("not used")

    def propose(self, state, slots, anchors, steps, sampler):  # type: ignore[no-untyped-def]
        rows = []
        for length in state.starts(slots).tolist():
            places = range(length + 1, length + 1 + steps)
            ahead = [(p, self.texts[0][p] if p < len(self.texts[0]) else 0) for p in places]
            rows.append([(t + 1) % 40 if p % self.wrong_every == 0 else t for p, t in ahead])
        logits = torch.nn.functional.one_hot(torch.tensor(rows), 40).float()
        from paradraft.drafters import Proposal

        return Proposal(*sampler(logits * 100))


def oracle(target: Target, text: list[int], wrong_every: int) -> Oracle:
    drafter = Oracle(make_drafter(target).config, target).eval()
    drafter.prepare([text], wrong_every)
    return drafter


def test_good_drafts_are_kept_and_counted(target: Target) -> None:
    prompt = [4, 9, 2]
    answer = transformers_greedy(target, prompt, 25)
    generation = Engine(target, oracle(target, prompt + answer, 1000)).generate([prompt], 25, ())[0]
    assert generation.tokens == answer
    assert [r.emitted for r in generation.rounds] == [6, 6, 6, 6]
    assert [r.accepted for r in generation.rounds] == [5, 5, 5, 5]
    generation = Engine(target, oracle(target, prompt + answer, 4)).generate([prompt], 25, ())[0]
    assert generation.tokens == answer
    assert {r.accepted for r in generation.rounds[1:-1]} == {3}


def test_stop_tokens_and_limits_are_exact(target: Target) -> None:
    prompt = [4, 9, 2]
    answer = transformers_greedy(target, prompt, 30)
    for stop in sorted(set(answer)):
        wanted = answer[: answer.index(stop) + 1]
        for limit in (1, 2, 7, 30):
            for drafter in (None, make_drafter(target), oracle(target, prompt + answer, 1000)):
                generation = Engine(target, drafter).generate([prompt], limit, [stop])[0]
                assert generation.tokens == wanted[:limit]
                assert generation.stopped == (len(wanted) <= limit)
                assert sum(r.emitted for r in generation.rounds) == len(generation.tokens) - 1
    assert transformers_greedy(target, prompt, 30, stop=answer[5]) == answer[: answer.index(answer[5]) + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_end_apart_do_not_disturb_each_other(target: Target, kind: str) -> None:
    prompts = [[4, 9, 2], [8], [1, 2, 3, 4, 5], [30, 30]]
    answers = [transformers_greedy(target, prompt, 20) for prompt in prompts]
    stops = [answers[0][3], answers[2][9]]
    drafter = make_drafter_of(kind, target)
    together = Engine(target, drafter).generate(prompts, 20, stops)
    for prompt, generation in zip(prompts, together, strict=True):
        alone = Engine(target, drafter).generate([prompt], 20, stops)[0]
        assert generation.tokens == alone.tokens and generation.stopped == alone.stopped
        assert generation.rounds == alone.rounds  # drafts included
    assert len({len(g.tokens) for g in together}) > 1


MIXED = [Sampling(), Sampling(1.0), Sampling(0.7, top_k=5), Sampling(1.3, top_p=0.8), Sampling(1.0), Sampling()]


KEEPING = [
    *((kind, "chain", None) for kind in (None, *KINDS)),
    ("dflash", "block", None),
    ("dflash", "tree_residual", 7),
    ("pard", "tree", 12),
    ("pard2", "tree_residual", 12),
]


@pytest.mark.parametrize(("kind", "rule", "nodes"), KEEPING)
def test_a_text_is_the_same_alone_and_among_others(
    target: Target, kind: str | None, rule: str, nodes: int | None
) -> None:
    """Sampled ones too, rounds included: other settings, lengths, stops and arrivals beside it change nothing."""
    drafter = None if kind is None else make_drafter_of(kind, target)
    rng = random.Random(kind)
    requests = []
    for number in range(12):
        prompt = [rng.randrange(1, 40) for _ in range(rng.randint(1, 9))]
        stops = frozenset(rng.sample(range(40), rng.choice([0, 1])))
        requests.append(Request(prompt, rng.randint(1, 20), MIXED[number % 6], stops, seed=number))
    alone = [
        finish(engine := Engine(target, drafter, acceptance=rule, tree=nodes), [engine.add(r)])[0].generation
        for r in requests
    ]
    for most in (None, 1, 3):
        engine = Engine(target, drafter, max_rows=most, seed=9, acceptance=rule, tree=nodes)
        sequences = [engine.add(request) for request in requests[:7]]
        for request in requests[7:]:  # arrive one by one while the others run
            assert len(engine.scheduler.running) <= (most or 12)
            engine.step()
            sequences.append(engine.add(request))
        assert [s.generation for s in finish(engine, sequences)] == alone
    assert len({tuple(g.tokens) for g in alone}) > 8


def finish(engine: Engine, sequences: list[RunningSequence]) -> list[RunningSequence]:
    """Run all to their ends; events say exactly what was emitted."""
    emitted = {id(s): list(s.generation.tokens) for s in sequences}
    while not engine.scheduler.idle:
        for event in engine.step():
            emitted[id(event.sequence)] += event.tokens
    assert all(s.finished and emitted[id(s)] == s.generation.tokens for s in sequences)
    return sequences


def test_a_slot_that_becomes_free_is_taken_at_once(target: Target) -> None:
    engine = Engine(target, max_rows=2)
    short, long, waiting = (engine.add(Request([3, number], number, stops=frozenset())) for number in (2, 8, 5))
    engine.step()
    assert short.finished and waiting.slot is None and not engine.scheduler.idle
    events = engine.step()
    assert waiting.slot == 0 and {id(e.sequence) for e in events} == {id(long), id(waiting)}


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_room_for_a_long_text_is_given_back(target: Target, kind: str | None) -> None:
    """Among texts that go on without a pause: the next one that comes finds smaller slots, and nobody notices."""
    drafter = None if kind is None else make_drafter_of(kind, target)
    engine = Engine(target, drafter, max_rows=2)
    prompts, most = [[3, 5], [1 + n % 30 for n in range(89)], [7], [8, 9]], [34, 2, 30, 8]
    sequences = [engine.add(Request(p, n, stops=frozenset())) for p, n in zip(prompts, most, strict=True)]
    capacities = []
    while not engine.scheduler.idle:
        engine.step()
        if engine.scheduler.running:
            assert engine._slots is not None
            capacities.append(engine._slots.capacity)
    assert engine._slots is None and engine._drafting is None  # the last one has gone
    assert capacities[0] > 90 and capacities[-1] < 60
    for sequence, prompt, n in zip(sequences, prompts, most, strict=True):
        assert sequence.generation.tokens == transformers_greedy(target, prompt, n)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resized_draft_state_is_as_large_as_a_new_one(target: Target, kind: str) -> None:
    """Beyond the text it holds what is observed late and the block, whichever capacity it was made with."""
    drafter = make_drafter_of(kind, target)
    for before, after in ((20, 60), (60, 20)):
        drafting = Drafting(drafter, 2, before)
        drafting.resize(3, after)
        assert drafting.state.cache.capacity == Drafting(drafter, 3, after).state.cache.capacity
        assert len(drafting.state.cache.lengths) == len(drafting.state.pending) == 3


def test_ended_requests_leave_the_others_alone(target: Target, drafter: DFlash) -> None:
    engine = Engine(target, drafter, max_rows=2)
    prompts = [[4, 9, 2], [8], [1, 2], [6]]
    first, second, third, fourth = (engine.add(Request(prompt, 20, stops=frozenset())) for prompt in prompts)
    engine.step()
    engine.cancel([first, fourth])  # one runs, one waits
    finish(engine, [second, third])
    assert first.finished and fourth.finished and not fourth.generation.tokens
    for sequence, prompt in ((second, prompts[1]), (third, prompts[2])):
        assert sequence.generation.tokens == transformers_greedy(target, prompt, 20)


def test_no_prompts_no_answers(target: Target) -> None:
    assert Engine(target).generate([], 5) == []


def test_sampling_repeats_with_its_seed(target: Target) -> None:
    drafter = make_drafter(target)
    first, again, other = (
        Engine(target, drafter, Sampling(1.0), seed=seed).generate([[1, 2]], 20, ())[0].tokens for seed in (1, 1, 2)
    )
    assert first == again != other
    engine = Engine(target, drafter, Sampling(1.0))
    asked = [engine.generate([[1, 2]], 20, (), seeds=seeds)[0].tokens for seeds in (None, None, [5], [5])]
    assert asked[0] != asked[1] != asked[2] == asked[3]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_prompt_share_its_prefill_and_nothing_else(kind: str, target: Target) -> None:
    drafter = make_drafter_of(kind, target)
    prompts = [[4, 9, 2], [8]]
    alone = Engine(target, drafter).generate(prompts, 12, ())
    together = Engine(target, drafter).generate(prompts, 12, (), samples=3)
    assert [g.tokens for g in together] == [g.tokens for g in alone for _ in range(3)]
    sampled = Engine(target, drafter, Sampling(1.0)).generate(prompts, 12, (), samples=3)
    assert len({tuple(g.tokens) for g in sampled}) == 6


def test_rows_may_leave_early_without_shorter_drafts(target: Target) -> None:
    drafter = make_drafter(target)
    generation = Engine(target, drafter).generate([[4, 9, 2]], 20, (), enough=3)[0]
    whole = Engine(target, drafter).generate([[4, 9, 2]], 20, ())[0]
    assert 3 <= len(generation.tokens) < 20 and generation.tokens == whole.tokens[: len(generation.tokens)]
    assert {len(r.drafted) for r in generation.rounds} == {drafter.max_draft}


def test_requests_that_cannot_be_served(target: Target, drafter: DFlash) -> None:
    with pytest.raises(UserError, match="draft length 6 is outside 1 to 5"):
        Engine(target, drafter, draft_length=6)
    with pytest.raises(UserError, match="more than the context of 256"):
        Engine(target).generate([[1] * 250], 20)
    with pytest.raises(UserError, match="prompt 2 is empty"):
        Engine(target).generate([[1], []], 20)
    with pytest.raises(UserError, match="at least 1"):
        Engine(target).generate([[1]], 0)
    with pytest.raises(UserError, match="at least one sequence"):
        Engine(target, max_rows=0)
    with pytest.raises(UserError, match=r"acceptance rule 'blocks' is not one for chains .*; use one of chain, block"):
        Engine(target, drafter, acceptance="blocks")


@pytest.mark.parametrize("kind", (None, *KINDS))
def test_logprobs_are_the_targets_own(target: Target, kind: str | None) -> None:
    """Those of a teacher-forced forward over prompt and answer, with a drafter or without, sampled or greedy."""
    prompt = [4, 9, 2]
    engine = Engine(target, None if kind is None else make_drafter_of(kind, target))
    asked = Request(prompt, 14, Sampling(1.3), frozenset(), seed=3, logprobs=4)
    sequences = [engine.add(asked), engine.add(Request(prompt, 9, stops=frozenset()))]
    found = []
    while not all(sequence.finished for sequence in sequences):
        for event in engine.step():
            assert (event.logprobs is None) == (event.sequence is sequences[1])
            found += event.logprobs or ()
    tokens = sequences[0].generation.tokens
    assert [one.token for one in found] == tokens
    text = torch.tensor([prompt + tokens])
    wanted = target.logits(text, torch.zeros_like(text))[0, len(prompt) - 1 : -1].log_softmax(-1)
    for one, token, row in zip(found, tokens, wanted, strict=True):
        assert one.value == pytest.approx(float(row[token]), abs=1e-4)
        assert [value for _, value in one.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)
        assert dict(one.top).get(token, one.value) == one.value
