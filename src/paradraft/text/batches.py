"""Bucketed or packed batches in an order that depends on the seed and the step alone, so that a run resumes exactly."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..drafters import Batch
from ..drafters.grid import PADDING
from .render import Rendered

BUCKET = 32  # batches that are sorted by length together


POOL = 512  # examples among which the packer looks for what fits


def cut(rendered: Rendered, max_length: int) -> Rendered:
    """At most `max_length` tokens: whole answers as far as they go, a part of the first where it alone is longer."""
    ids, mask = rendered.input_ids, rendered.loss_mask
    if len(ids) <= max_length:
        return rendered
    ends = np.flatnonzero(mask[:max_length] & ~mask[1 : max_length + 1]) + 1
    end = int(ends[-1]) if len(ends) else max_length
    return Rendered(ids[:end], mask[:end])


def pack(examples: Sequence[Rendered], max_length: int, seed: int) -> list[Rendered]:
    """Rows of at most `max_length` tokens, each of whole examples with document ids 0, 1, ... in order.

    Examples are shuffled by the seed; a row is begun with the next one and filled with the longest that still fits
    among the next POOL. Depends on lengths and seed alone.
    """
    order = list(range(len(examples)))
    random.Random(f"pack/{seed}").shuffle(order)
    waiting = ((len(examples[i].input_ids), turn, i) for turn, i in enumerate(order))
    pool = sorted(itertools.islice(waiting, POOL))
    packed = []
    while pool:
        chosen = pool.index(min(pool, key=lambda entry: entry[1]))
        row, room = [], max_length
        while chosen >= 0:
            length, _, number = pool.pop(chosen)
            row.append(examples[number])
            room -= length
            chosen = bisect.bisect_left(pool, (room + 1,)) - 1  # the longest that still fits, if any
        for entry in itertools.islice(waiting, POOL - len(pool)):
            bisect.insort(pool, entry)
        packed.append(join(row))
    return packed


def join(examples: Sequence[Rendered]) -> Rendered:
    """Several examples as one row; nothing attends, counts positions or drafts across them."""
    return Rendered(
        np.concatenate([example.input_ids for example in examples]),
        np.concatenate([example.loss_mask for example in examples]),
        np.repeat(np.arange(len(examples)), [len(example.input_ids) for example in examples]),
    )


def learnable(example: Rendered) -> bool:
    """At least two supervised tokens in a row: an anchor and its label."""
    return bool(np.any(example.loss_mask[1:] & example.loss_mask[:-1]))


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of every batch of an epoch: shuffled, sorted by length within buckets, the batches shuffled again.

    The last, incomplete batch of the epoch is left out unless it is the only one.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    bucket = batch_size * BUCKET
    whole = max(batch_size, len(order) // batch_size * batch_size)
    for start in range(0, min(whole, len(order)), bucket):
        part = sorted(order[:whole][start : start + bucket], key=lambda i: lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    rng.shuffle(batches)
    return batches


def steps_per_epoch(examples: int, batch_size: int) -> int:
    return max(1, examples // batch_size)


def batches_from(lengths: Sequence[int], batch_size: int, seed: int, step: int) -> Iterator[list[int]]:
    """The endless sequence of batches from optimiser step `step` (0-based) on."""
    per_epoch = steps_per_epoch(len(lengths), batch_size)
    epoch, skip = divmod(step, per_epoch)
    while True:
        yield from epoch_batches(lengths, batch_size, seed, epoch)[skip:]
        epoch, skip = epoch + 1, 0


def collate(examples: Sequence[Rendered]) -> Batch:
    """Pad on the right to the longest; one document a row, or those of a packed row."""
    shape = (len(examples), max(len(e.input_ids) for e in examples))
    input_ids = torch.zeros(shape, dtype=torch.long)
    loss_mask = torch.zeros(shape, dtype=torch.bool)
    document_ids = torch.full(shape, PADDING)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = torch.from_numpy(example.input_ids)
        loss_mask[row, :length] = torch.from_numpy(example.loss_mask)
        documents = example.document_ids
        document_ids[row, :length] = 0 if documents is None else torch.from_numpy(documents)
    return Batch(input_ids, loss_mask, document_ids)
