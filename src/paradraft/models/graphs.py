"""CUDA graphs for decode rounds: a forward of a few tokens is bound by its hundreds of launches, a replay is one.

A graph is a forward of the lean decoder at one shape. All that changes from one run to the next stands in tensors at
fixed addresses; every number that Python computes is baked in. The first run of a shape is an ordinary one, the second
records. The head stays outside: its one launch costs nothing behind a graph, and its output would be kept by each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .lean import LeanDecoder, Round, group_mask, rotation_at
from .slots import KeyValueSlots, sight

log = logging.getLogger(__name__)

BUCKET = 256  # keys: a graph reads a multiple of it, masked beyond each row's own end
MOST_TOKENS = 64  # of a row; what has more is bound by arithmetic
MOST_INPUTS = 1024  # tokens of all rows
MOST_GRAPHS = 64  # kept for the same slots; the one that was not used for the longest goes first

Outputs = tuple[Tensor, Tensor]  # final-normed hidden states [R, T, H], features [R, T, layers * H]
Embed = Callable[[Tensor], Tensor]


class Recording(Protocol):
    """A recorded call. `replay` makes it again and leaves its results in the same `outputs`."""

    outputs: Outputs

    def replay(self) -> None: ...


class Recorder(Protocol):
    """Records a call; `beside`: a recording that lives and may share its memory."""

    def __call__(self, call: Callable[[], Outputs], beside: Any | None) -> Recording: ...


class CudaRecording:
    """A CUDA graph. Recordings that share memory must be replayed one after the other, their outputs read at once."""

    def __init__(self, call: Callable[[], Outputs], beside: CudaRecording | None, stream: torch.cuda.Stream) -> None:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()  # what libraries allocate once a stream must not come from the graph's memory
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        pool = None if beside is None else beside.graph.pool()
        # Other threads may allocate meanwhile.
        with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.outputs = call()

    def replay(self) -> None:
        self.graph.replay()


class CudaRecorder:
    """Records on one side stream of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def __call__(self, call: Callable[[], Outputs], beside: CudaRecording | None) -> CudaRecording:
        with torch.cuda.device(self.device):
            return CudaRecording(call, beside, self.stream)


class Fixed(Protocol):
    """A call that reads what changes from tensors of its own.

    Nothing in it may wait for the device, read a value of it, or copy from the host.
    """

    recording: Recording | None

    def __call__(self) -> Outputs: ...


class FixedForward:
    """A forward of slots 0 to R-1, T tokens each, that reads keys 0 to `end` - 1.

    `inputs` [R, T, ...] is what `embed` takes, `starts` [R] counts committed tokens, `parents` [R, T] as in
    `KeyValueSlots.reserve`. It holds the table of rotations: a decoder that makes a larger one drops it.
    """

    def __init__(
        self,
        lean: LeanDecoder,
        embed: Embed,
        cache: KeyValueSlots,
        like: Tensor,
        rows: int,
        end: int,
        tree: bool,
        feature_layers: tuple[int, ...],
    ) -> None:
        self.lean, self.embed, self.held, self.end, self.feature_layers = lean, embed, cache.layers, end, feature_layers
        self.inputs = like.new_zeros(rows, *like.shape[1:])
        self.starts = torch.zeros(rows, dtype=torch.long, device=like.device)
        self.parents = torch.full((rows, like.shape[1]), -1, device=like.device) if tree else None
        self.slots = torch.arange(rows, device=like.device)[:, None]
        self.table = lean.table(cache.capacity, embed(self.inputs[:1, :1]))
        self.recording: Recording | None = None

    def fill(self, inputs: Tensor, starts: Tensor, parents: Tensor | None, rows: Tensor | None) -> None:
        """`starts` [R] on the host; inputs and parents of the slots `rows`, None: of all in order."""
        self.starts.copy_(starts)  # waits: the host goes on to change what it is copied from
        for held, given in ((self.inputs, inputs), (self.parents, parents)):
            if held is not None and given is not None:
                held.copy_(given) if rows is None else held.index_copy_(0, rows, given)

    def __call__(self) -> Outputs:
        rows, tokens = self.inputs.shape[:2]
        hidden = self.embed(self.inputs)
        places, positions, visible = sight(self.starts, tokens, self.end, self.parents)
        mask = group_mask(visible, hidden.dtype, self.lean.layers[0].group)
        run = slice(0, rows), slice(0, rows), self.end, mask
        shared = Round(rotation_at(self.table, positions), [run], (self.slots, places))
        hidden, outputs = self.lean.through(hidden, self.held, shared, self.feature_layers)
        return hidden, torch.cat(outputs, dim=-1) if outputs else hidden[..., :0]


class Graphs:
    """Runs small forwards from recordings; they are kept with the slots and go when those are resized or freed."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.off = recorder, False

    def run(
        self,
        lean: LeanDecoder,
        embed: Embed,
        inputs: Tensor,
        cache: KeyValueSlots,
        slots: Sequence[int] | None = None,
        parents: Tensor | None = None,
        feature_layers: Sequence[int] = (),
    ) -> Outputs | None:
        """A forward behind the committed tokens of `slots`, reserved as by `cache.reserve`; None where it is not small.

        `inputs` [rows, T, ...] is what `embed` takes.
        """
        tree, layers = parents is not None, tuple(feature_layers)

        def make(rows: int, end: int) -> FixedForward:
            return FixedForward(lean, embed, cache, inputs, rows, end, tree, layers)

        def fill(fixed: FixedForward, starts: Tensor, rows: Tensor | None) -> None:
            fixed.fill(inputs, starts, parents, rows)

        kind = lean, inputs.shape[1:], inputs.dtype, tree, layers
        return self.again(cache, slots, inputs.shape[1], kind, make, fill)

    def again(
        self,
        cache: KeyValueSlots,
        slots: Sequence[int] | None,
        tokens: int,
        kind: tuple[Any, ...],
        make: Callable[[int, int], Any],
        fill: Callable[[Any, Tensor, Tensor | None], None],
    ) -> Outputs | None:
        """What a call of this `kind` returns for `slots`, which write `tokens` each; None where that is not small.

        `make` is given R and the number of keys and returns a `Fixed`; `fill` is given that, the committed tokens [R],
        and which rows of it `slots` are, None: all in order. The call takes in all slots up to the last of `slots` and
        some more. Those that were not asked for write behind what they hold, and nobody reads that.
        """
        asked = list(range(len(cache.lengths))) if slots is None else list(slots)
        rows = min(rounded_rows(max(asked) + 1), len(cache.lengths))
        starts = cache.lengths[:rows]
        needed = int(starts.max()) + tokens
        small = tokens <= MOST_TOKENS and rows * tokens <= MOST_INPUTS and needed <= cache.capacity
        # Inference tensors, of which these are, can be written in inference mode only.
        if self.off or not small or not torch.is_inference_mode_enabled():
            return None
        cache.claim(asked, tokens)
        end = min(-(-needed // BUCKET) * BUCKET, cache.room)
        key = (*kind, rows, end)
        fixed: Fixed | None = cache.recorded.pop(key, None)
        known = fixed is not None
        if fixed is None:
            fixed = make(rows, end)
        index = None if asked == list(range(rows)) else torch.tensor(asked, device=cache.device)
        fill(fixed, starts, index)
        if known and fixed.recording is None:
            others = (other.recording for other in cache.recorded.values() if other.recording is not None)
            fixed.recording = self.record(fixed, next(others, None))
        cache.recorded[key] = fixed
        if len(cache.recorded) > MOST_GRAPHS:
            del cache.recorded[next(iter(cache.recorded))]
        hidden, features = outputs_of(fixed)
        if index is None:
            return hidden.clone(), features.clone()
        return hidden[index], features[index]

    def record(self, fixed: Fixed, beside: Recording | None) -> Recording | None:
        """A recording that was seen to say what the call says; where there is none, nothing is recorded any more."""
        expected = [found.clone() for found in fixed()]
        try:
            recording = self.recorder(fixed, beside)
            recording.replay()
            if all(map(near, recording.outputs, expected)):
                return recording
            why = "a replay gave other numbers than the forward"
        except RuntimeError as error:  # CUDA's errors are of this kind
            why = str(error)
        self.off = True
        log.warning("decoding goes on without CUDA graphs, correct but slower: %s", why)
        return None


def near(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding; one forward with other kernels differs by less than a hundredth of the largest number."""
    if not expected.numel():
        return True
    return bool((found - expected).abs().max() <= 0.01 * expected.abs().max())


def rounded_rows(rows: int) -> int:
    """Of few a power of two, of more a multiple of 8: rows that leave should not make a new shape each."""
    return 1 << (rows - 1).bit_length() if rows < 8 else -(-rows // 8) * 8


def outputs_of(fixed: Fixed) -> Outputs:
    if fixed.recording is None:
        return fixed()
    fixed.recording.replay()
    return fixed.recording.outputs


def as_it_is(hidden: Tensor) -> Tensor:
    """An `Embed` for inputs that are embeddings already."""
    return hidden


def graphs_for(device: torch.device) -> Graphs | None:
    """Graphs on a GPU."""
    return Graphs(CudaRecorder(device)) if device.type == "cuda" else None
