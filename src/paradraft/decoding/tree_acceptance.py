"""Which path through a tree of drafts is kept. Lossless for any tree whose siblings are different tokens.

The nodes are chosen without chance, so no distribution q enters: every child stands for a point mass. The two rules
keep the same texts with the same probabilities; they differ in what they compute.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .draft import Accepted, Draft, Noise, at, drafted
from .sampling import draw
from .tree import depths_of, kept_path


def follow_tree(draft: Draft, choices: Tensor) -> Accepted:
    """Go from the newest committed token to the child that is the target's choice there, as long as there is one.

    choices [rows, 1 + N]: the target's own token after the newest committed one and after each node.
    """
    assert draft.parents is not None
    agreed = (draft.tokens == choices.gather(1, draft.parents + 1)) & drafted(draft)
    counts, path = kept_path(draft.parents, agreed)
    return Accepted(counts, at(choices, at(path, counts)), path)


def tree(draft: Draft, target: Tensor, noise: Noise) -> Accepted:
    """Draw a token from the target at every node and follow them (JetSpec, arXiv 2606.18394)."""
    assert draft.parents is not None
    numbers = torch.cat((noise.last[:, None], noise.accept), dim=1)  # one for each depth: a path has no other draws
    return follow_tree(draft, draw(target, numbers.gather(1, depths_of(draft.parents))))


def tree_residual(draft: Draft, target: Tensor, noise: Noise) -> Accepted:
    """Try the children of a node in turn, each with its share of what is left of p (SpecInfer, arXiv 2305.09781).

    Child x is kept with probability p(x) / (1 - p of the siblings tried before); a child that is not leaves the rest of
    p to the next one. If none is kept, the target's own token is drawn from the rest.
    """
    assert draft.parents is not None
    ours, row = drafted(draft), torch.arange(len(target), device=target.device)
    p = target[row[:, None], draft.parents + 1, draft.tokens]
    before = draft.parents[:, :, None] == draft.parents[:, None, :]
    before = before.tril(-1) & ours[:, None, :]  # [rows, N, N]: siblings that are tried earlier
    tried = (before * p[:, None, :]).sum(-1)
    passed = (noise.accept * (1 - tried) < p) & ours
    agreed = passed & ~(before & passed[:, None, :]).any(-1)
    counts, path = kept_path(draft.parents, agreed)
    last = at(path, counts)
    at_end = at(target, last)
    children = (ours & (draft.parents + 1 == last[:, None])).to(p.dtype)
    rest = at_end.masked_fill(torch.zeros_like(at_end).scatter_add(1, draft.tokens, children) > 0, 0.0)
    # A rest of nothing means that the children have all of p; rejecting them has probability zero but for rounding.
    return Accepted(counts, draw(torch.where(rest.sum(-1, keepdim=True) > 0, rest, at_end), noise.last), path)
