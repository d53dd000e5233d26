"""Graphs of decode rounds. Without a GPU a tape stands for them: it repeats operations on tensors, not Python's."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from paradraft.decoding import Engine, Request
from paradraft.decoding.length import AUTO
from paradraft.drafters import DFlash
from paradraft.drafters.language_model import LanguageModelDrafter
from paradraft.models import Target, graphs
from paradraft.models.graphs import Graphs, Outputs, graphs_for, rounded_rows
from tests.conftest import make_drafter_of, make_model

FORBIDDEN = ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "lift_fresh", "masked_select", "equal.default")


class Tape(TorchDispatchMode):
    """Every tensor operation with its arguments as they were: numbers are baked in, tensors stay the same ones."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(name in str(func) for name in FORBIDDEN), f"{func} would wait for the GPU"
        found = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, found))
        return found


@dataclass
class TapeRecording:
    outputs: Outputs
    tape: Tape
    replays: int = 0

    def replay(self) -> None:
        """All over again, from what stands in the tensors that the tape did not make itself, into the same outputs."""
        made: dict[int, Any] = {}

        def now(value: Any) -> Any:
            return made.get(id(value), value) if isinstance(value, torch.Tensor) else value

        for func, args, kwargs, before in self.tape.operations:
            after = func(*tree_map(now, args), **tree_map(now, kwargs))
            pairs = zip(before, after, strict=True) if isinstance(before, list | tuple) else [(before, after)]
            for old, new in pairs:
                if isinstance(old, torch.Tensor) and old is not new:
                    made[id(old)] = new
        for output in self.outputs:
            output.copy_(now(output))
        self.replays += 1


@dataclass
class TapeRecorder:
    recordings: list[TapeRecording] = field(default_factory=list)

    def __call__(self, call: Callable[[], Outputs], beside: Any) -> TapeRecording:
        with Tape() as tape:
            outputs = call()
        for output in outputs:
            output.fill_(float("nan"))  # a capture computes nothing
        self.recordings.append(TapeRecording(outputs, tape))
        return self.recordings[-1]

    @property
    def replays(self) -> int:
        return sum(recording.replays for recording in self.recordings)


def recorded(target: Target) -> TapeRecorder:
    recorder = TapeRecorder()
    target.graphs = Graphs(recorder)
    return recorder


def ready(family: str = "qwen3") -> Target:
    target = Target(make_model(family))
    target.prepare_decoding()
    return target


def test_only_a_gpu_has_graphs() -> None:
    target = ready()
    assert target.graphs is None
    assert graphs_for(torch.device("cpu")) is None


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_replay_says_what_a_forward_says(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of every length in slots side by side, apart and out of order; chains and trees; over borders of buckets."""
    monkeypatch.setattr(graphs, "BUCKET", 16)
    plain, fast = ready(family), ready(family)
    recorder = recorded(fast)
    caches = [target.new_slots(4, 61) for target in (plain, fast)]
    rng = random.Random(0)
    tree = torch.tensor([[-1, 0, 0, 1, 2], [-1, 0, 1, 2, 3]])
    for step in range(36):
        slots = [[0, 1, 2, 3], [2, 0], [1, 3], [0]][step % 4]
        tokens = 1 if step % 8 < 4 else 5
        parents = tree[[rng.randrange(2) for _ in slots]] if tokens == 5 and step % 16 > 8 else None
        ids = torch.randint(1, 40, (len(slots), tokens), generator=torch.Generator().manual_seed(step))
        kept = torch.tensor([rng.randint(1, min(tokens, 2)) for _ in slots])
        outputs = []
        for target, cache in zip((plain, fast), caches, strict=True):
            with torch.inference_mode():
                outputs.append(target.forward(ids, cache, (4, 1), slots, parents))
                cache.commit(kept)
        for wanted, found in ((outputs[0].logits, outputs[1].logits), (outputs[0].features, outputs[1].features)):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        if step % 9 == 8:
            for cache in caches:
                cache.release([step % 4])
    assert recorder.replays > len(recorder.recordings) > 5
    assert torch.equal(caches[0].lengths, caches[1].lengths)


def test_rows_that_leave_share_a_shape() -> None:
    assert [rounded_rows(rows) for rows in (1, 2, 3, 5, 8, 9, 17)] == [1, 2, 4, 8, 8, 16, 24]


def test_what_a_replay_returned_stays(target: Target) -> None:
    target.prepare_decoding()
    recorder = recorded(target)
    cache = target.new_slots(2, 40)
    found = []
    with torch.inference_mode():
        for token in range(1, 6):
            output = target.forward(torch.tensor([[token], [token + 1]]), cache, (1,))
            found.append((output.logits, output.features, output.logits.clone(), output.features.clone()))
    assert recorder.replays == 5  # the first one is compared with the forward
    assert all(torch.equal(a, c) and torch.equal(b, d) for a, b, c, d in found)
    assert not torch.equal(found[3][0], found[4][0])


def test_other_buffers_take_their_recordings_along(target: Target) -> None:
    target.prepare_decoding()
    recorded(target)
    cache = target.new_slots(2, 24)
    with torch.inference_mode():
        for _ in range(3):
            target.forward(torch.ones(2, 1, dtype=torch.long), cache)
        assert len(cache.recorded) == 1
        cache.resize(2, 24)
        assert len(cache.recorded) == 1  # nothing has moved
        cache.resize(3, 24)
        assert not cache.recorded


def test_the_oldest_recordings_go(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    target.prepare_decoding()
    recorded(target)
    cache = target.new_slots(1, 24)
    with torch.inference_mode():
        for tokens in (1, 2, 1, 3):
            target.forward(torch.ones(1, tokens, dtype=torch.long), cache)
    assert [key[1][0] for key in cache.recorded] == [1, 3]


def test_what_is_large_or_outside_of_inference_mode_has_no_graph(target: Target) -> None:
    target.prepare_decoding()
    recorded(target)
    cache = target.new_slots(2, 80)
    ids = torch.ones(2, 3, dtype=torch.long)
    target.forward(ids, cache)
    with torch.inference_mode():
        target.forward(ids, cache, logits_at=torch.tensor([2, 1]))
        target.forward(torch.ones(2, graphs.MOST_TOKENS + 1, dtype=torch.long), cache)
        cache.lengths[0] = 79  # no room behind it, which the second slot does not need
        target.forward(ids[:1], cache, slots=[1])
        with pytest.raises(ValueError, match="hold 80 tokens"):
            target.forward(ids, cache)
    assert not cache.recorded


BRANCHING = ("dflash", "pard", "pard2", "eagle3")
PAIRS = [
    (None, "chain"),
    *(
        (kind, way)
        for kind in (*BRANCHING, "dflash2", "dflash2_tied", "dspark", "vanilla")
        for way in ("chain", "auto")
    ),
    *((kind, "tree") for kind in BRANCHING),
]


@pytest.mark.parametrize(("kind", "way"), PAIRS)
def test_texts_are_the_same(target: Target, kind: str | None, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are the drafts. Texts come and go, slots are resized and kept from one batch to the next."""
    monkeypatch.setattr(graphs, "BUCKET", 16)
    length, nodes = {"chain": (None, None), "auto": (AUTO, None), "tree": (None, 7)}[way]
    target.prepare_decoding()
    drafter = None if kind is None else make_drafter_of(kind, target)
    if drafter is not None:
        drafter.prepare_decoding()
    texts = {}
    for forced in (False, True):
        target.graphs = None
        recorder = recorded(target) if forced else TapeRecorder()
        if isinstance(drafter, LanguageModelDrafter | DFlash):
            drafter.graphs = target.graphs
        for most in (1, 4):
            engine = Engine(target, drafter, None, length, 0, most, tree=nodes)
            engine.keeps_slots = forced
            requests = [Request([3 + n, 5, 7][: 1 + n % 3], 4 + 5 * n % 17, stops=frozenset()) for n in range(7)]
            first = [engine.add(request) for request in requests]
            while not engine.scheduler.idle:
                engine.step()
            again = engine.generate([[9, 8], [1, 2, 3], [4]], 14, ())
            answers = [*(sequence.generation for sequence in first), *again]
            texts[forced, most] = [a.tokens if way == "auto" else (a.tokens, a.rounds) for a in answers]
        assert (recorder.replays > 0) == forced
    assert texts[True, 1] == texts[False, 1] and texts[True, 4] == texts[False, 4]


def test_slots_are_kept_where_the_next_texts_fit(target: Target) -> None:
    target.prepare_decoding()
    drafter = make_drafter_of("pard", target)
    engine = Engine(target, drafter)
    engine.keeps_slots = True
    found = []
    for prompts, new in (([[1, 2, 3], [2]], 20), ([[3, 4]], 20), ([[5], [6]], 12), ([[7], [8]], 60), ([[9]] * 5, 60)):
        fresh = Engine(target, drafter).generate(prompts, new, ())
        assert [t.tokens for t in engine.generate(prompts, new, ())] == [t.tokens for t in fresh]
        assert engine._slots is not None and not engine._slots.lengths.any()
        found.append(engine._slots)
    assert found[0] is found[1] is found[2] is not found[3] and found[3] is not found[4]


def test_slots_are_not_kept_for_another_mode(target: Target) -> None:
    """It needs other features."""
    drafter = make_drafter_of("pard2", target)
    engine = Engine(target, drafter)
    engine.keeps_slots = True
    for mode in ("dependent", "independent", "dependent"):
        drafter.set_mode(mode)
        assert engine.generate([[1, 2, 3]], 12, ())[0] == Engine(target, drafter).generate([[1, 2, 3]], 12, ())[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tokens", [1, 3, 16, 33])
def test_graphs_on_a_gpu_say_what_a_forward_says(tokens: int) -> None:
    target = Target(make_model("qwen3", max_position_embeddings=4096).cuda())
    target.prepare_decoding()
    assert target.graphs is not None
    caches = [target.new_slots(4, 700) for _ in range(2)]
    on, generator = target.graphs, torch.Generator().manual_seed(tokens)
    with target.decoding():
        for step in range(9):
            slots = [[0, 1, 2, 3], [0, 2], [0]][step // 3]
            ids = torch.randint(1, 40, (len(slots), tokens), generator=generator).cuda()
            outputs = []
            for cache, used in zip(caches, (None, on), strict=True):
                target.graphs = used
                outputs.append(target.forward(ids, cache, (2, 0), slots))
                cache.commit(torch.full((len(slots),), tokens))
            torch.testing.assert_close(outputs[1].logits, outputs[0].logits, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(outputs[1].features, outputs[0].features, rtol=1e-3, atol=1e-3)
    assert all(fixed.recording is not None for fixed in caches[1].recorded.values())


class Broken(TapeRecorder):
    """A capture that fails, or a replay that leaves the numbers of another call."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def __call__(self, call: Callable[[], Outputs], beside: Any) -> TapeRecording:
        if self.how == "fails":
            raise RuntimeError("operation not permitted when stream is capturing")
        recording = super().__call__(call, beside)
        recording.tape.operations = recording.tape.operations[:-2]
        return recording


@pytest.mark.parametrize(("how", "why"), [("fails", "not permitted"), ("lies", "other numbers")])
def test_a_recording_that_is_wrong_is_never_used(how: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """Decoding goes on without graphs, says so once, and the text is the same."""
    plain, fast = ready(), ready()
    fast.graphs = Graphs(Broken(how))
    prompts = [[1, 2, 3], [4, 5]]
    expected = [text.tokens for text in Engine(plain).generate(prompts, 12, ())]
    assert [text.tokens for text in Engine(fast).generate(prompts, 12, ())] == expected
    assert fast.graphs.off and len(caplog.records) == 1
    assert why in caplog.text and "without CUDA graphs" in caplog.text


def test_one_row_drafts_the_same_where_no_graph_takes_it(target: Target) -> None:
    """What waits comes with all its padding then, which a single row must not look at either."""
    rounds = []
    for off in (False, True):
        drafter = make_drafter_of("dflash", target)
        drafter.prepare_decoding()
        if off:
            drafter.graphs = Graphs(TapeRecorder())
            drafter.graphs.off = True
        (generation,) = Engine(target, drafter).generate([[4, 9, 2]], 30, ())
        rounds.append(generation.rounds)
    assert rounds[0] == rounds[1]
