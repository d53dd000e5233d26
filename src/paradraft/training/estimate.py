"""What a training step costs, by arithmetic on sizes: bytes in memory, bytes on disk, floating-point operations.

The terms follow the code: what autograd keeps of each operation, and what is alive when a phase is at its largest.
`benchmarks/training.py` compares the sum with a measured peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..models.cpu_kernels import MOST_BYTES
from ..objectives.chunked_head import ENTRIES_PER_CHUNK, chunk_positions


@dataclass(frozen=True)
class Model:
    """Sizes of a decoder. `parameters`: all that are stored; `matrices`: the share of them that Muon would train."""

    parameters: int
    matrices: int
    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int

    @property
    def query_linear(self) -> int:
        """Weights of a layer's matrices that run over its queries: q, o, gate, up, down."""
        return 2 * self.hidden * self.heads * self.head_dim + 3 * self.hidden * self.intermediate

    @property
    def key_linear(self) -> int:
        """Weights of a layer's matrices that run over its keys: k, v."""
        return 2 * self.hidden * self.key_value_heads * self.head_dim


@dataclass(frozen=True)
class Step:
    """One micro-batch of one process: `rows` sequences of `length` tokens.

    `queries`: slots that run through the drafter's layers; `keys`: what one sequence's queries attend over;
    `context`: tokens that are only keys (DFlash), else 0; `positions`: predictions that reach the head;
    `feature_width`: of a token's features; `element`: bytes of an activation; `target_element`: of a target's weight;
    `reads`: the target runs at all (not for stored features, nor where nobody asks it);
    `teacher`: the objective reads the target's distributions, `gold`: its probabilities of the labels; `own_head`: the
    head is trained too.
    """

    rows: int
    length: int
    queries: int
    keys: int
    context: int
    positions: int
    feature_width: int
    element: int
    target_element: int
    reads: bool
    teacher: bool
    gold: bool
    own_head: bool
    gpu: bool


@dataclass(frozen=True)
class Memory:
    """Bytes in one process. Above what stays, the larger of the two phases counts."""

    target: int
    drafter: int
    reading: int
    training: int

    @property
    def peak(self) -> int:
        return self.target + self.drafter + max(self.reading, self.training)


def optimizer_bytes(drafter: Model, optimizer: str) -> int:
    """State in float32: AdamW two moments a weight, Muon one momentum a matrix's weight."""
    if optimizer == "muon":
        return 4 * drafter.matrices + 8 * (drafter.parameters - drafter.matrices)
    return 8 * drafter.parameters


def memory(
    target: Model, drafter: Model, step: Step, optimizer: str, pieces: int = 1, target_pieces: int = 1
) -> Memory:
    """`pieces`, `target_pieces`: over how many processes the two are cut."""
    tokens = step.rows * step.length
    features = tokens * step.feature_width * step.target_element
    # Weights and gradients in float32; FSDP2 gathers the weights of a step and sums whole gradients before it cuts.
    state = 8 * drafter.parameters + optimizer_bytes(drafter, optimizer)
    kept = state // pieces + (8 * drafter.parameters if pieces > 1 else 0)
    casts = 2 * drafter.parameters if step.element < 4 else 0  # autocast keeps a copy of the weights for a step
    return Memory(
        target=target.parameters * step.target_element // target_pieces
        + (packed_bytes(target, step) if target_pieces == 1 else 0),
        drafter=kept,
        reading=reading_bytes(target, step) + 2 * features if step.reads else 0,  # layer by layer, and put together
        training=features + casts + activation_bytes(drafter, step) + head_bytes(drafter.vocabulary, step),
    )


def packed_bytes(target: Model, step: Step) -> int:
    """The second copy of a target's linear layers that decoding on a CPU reads."""
    linear = 4 * (target.layers * (target.query_linear + target.key_linear) + target.hidden * target.vocabulary)
    return linear if not step.gpu and step.target_element == 4 and linear <= MOST_BYTES else 0


def reading_bytes(target: Model, step: Step) -> int:
    """The target's forward without gradients: one layer's widest moment, and the mask [rows, length, length]."""
    tokens = step.rows * step.length
    mlp = 3 * target.intermediate + 2 * target.hidden
    return tokens * mlp * step.target_element + step.rows * step.length**2 * (2 + step.target_element)


def activation_bytes(drafter: Model, step: Step) -> int:
    """What autograd keeps of the drafter's forward."""
    e, wide, narrow = step.element, drafter.heads * drafter.head_dim, drafter.key_value_heads * drafter.head_dim
    norm = 1 if step.gpu else 2  # a fused norm keeps its input, the composed one its normed input too
    all_keys = step.rows * step.keys
    layer = (
        step.queries
        * e
        * (
            2 * (norm + 1) * drafter.hidden  # both norms and their outputs
            + (norm + 3) * wide  # queries before and after norm and rotation, attention's output as it is and reshaped
            + 4 * drafter.intermediate  # gate, its activation, up, their product
        )
        + all_keys * e * (norm + 2) * narrow
    )  # keys before and after norm and rotation, values
    # The mask, booleans and numbers: a language model shares the numbers, DFlash's attention makes them in every layer.
    dense = 0 if step.gpu else step.queries * step.keys
    masks = dense * (1 + 4 * (drafter.layers if step.context else 1))
    context = step.context * (step.feature_width + (norm + 2) * drafter.hidden) * e
    return drafter.layers * layer + masks + context + step.queries * drafter.hidden * e


def head_bytes(vocabulary: int, step: Step) -> int:
    """Logits of one chunk: in the backward pass log-probabilities, their gradient, and that of the logits."""
    chunk = min(step.positions, chunk_positions(vocabulary))
    copies = 12 + (step.element if step.element < 4 else 0) + (16 if step.teacher else 0)
    return chunk * vocabulary * copies


def disk(drafter: Model, optimizer: str, keep: int) -> tuple[int, int]:
    """Bytes of one checkpoint, and of a run's directory at most: one more is written before the oldest goes."""
    weights = 4 * drafter.parameters
    checkpoint = weights + optimizer_bytes(drafter, optimizer)
    return checkpoint, (keep + 1) * (checkpoint + weights) + weights


def flops(target: Model, drafter: Model, step: Step) -> tuple[float, float, float]:
    """Floating-point operations of a micro-batch: the target's forward, the drafter's three passes, the head's.

    A multiplication with its addition counts two; attention counts what is computed, masked or not.
    """
    tokens = step.rows * step.length
    reading = 2.0 * tokens * target.layers * (target.query_linear + target.key_linear)
    reading += 4.0 * tokens * step.length * target.heads * target.head_dim * target.layers
    layer = step.queries * drafter.query_linear + (step.queries + step.context) * drafter.key_linear
    attention = 2.0 * step.queries * step.keys * drafter.heads * drafter.head_dim
    training = 6.0 * (drafter.layers * (layer + attention) + step.context * step.feature_width * drafter.hidden)
    chunked = step.positions > chunk_positions(drafter.vocabulary)
    passes = 2 + chunked + step.own_head  # forward, backward to the hidden states; forward again; to the weights
    head = 2.0 * passes * step.positions * drafter.hidden * drafter.vocabulary
    reading += 2.0 * opinions(target, step) * target.hidden * target.vocabulary
    return reading if step.reads else 0.0, training, head


def opinions(target: Model, step: Step) -> int:
    """How many positions the target's head runs over for the objective, as `read_teacher` and the chunks ask it.

    Distributions too large to keep are made in the forward pass and again in the backward pass.
    """
    asked = min(step.rows * step.length, step.positions)
    kept = asked * target.vocabulary <= ENTRIES_PER_CHUNK
    passes = (1 if kept else 2) * step.teacher + (step.gold and not (step.teacher and kept))
    return passes * asked
