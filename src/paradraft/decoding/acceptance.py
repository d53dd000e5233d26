"""Which drafted tokens are kept, and which token the target adds.

Every rule maps a draft and the target's distributions p [rows, N+1, V] (after the newest committed token and after each
drafted one) to the tokens that are kept, so that the committed text has exactly the target's own distribution. A greedy
row is one whose p and q are point masses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import UserError
from .draft import Accepted, Draft, Noise, at, drafted
from .sampling import Sampling, distributions, draw
from .tree_acceptance import follow_tree, tree, tree_residual

Rule = Callable[[Draft, Tensor, Noise], Accepted]


def accept(rule: str, draft: Draft, logits: Tensor, samplings: Sequence[Sampling], noise: Noise | None) -> Accepted:
    """Apply a rule by name to the target's logits [rows, N+1, V]; without a sampled row none needs noise."""
    if noise is None:
        return accept_greedy(draft, logits.argmax(-1))
    noise = Noise(noise.accept[:, : draft.tokens.shape[1]], noise.last)  # there is some for drafts that were cut
    return (ACCEPTANCE | TREE_ACCEPTANCE)[rule](draft, distributions(logits, samplings), noise)


def accept_greedy(draft: Draft, choices: Tensor) -> Accepted:
    """Keep what equals the likeliest tokens [rows, N+1], which is what every rule does at temperature 0."""
    return follow(draft, choices) if draft.parents is None else follow_tree(draft, choices)


def leading(agreed: Tensor) -> Tensor:
    """Length [rows] of the leading run of True in [rows, N]."""
    return agreed.long().cumprod(-1).sum(-1)


def follow(draft: Draft, choices: Tensor) -> Accepted:
    """Keep what equals the target's own choices [rows, N+1], from the newest committed token on.

    Lossless for any draft if the choices are drawn from p without looking at it; with choices of largest probability
    this is greedy decoding.
    """
    counts = leading((draft.tokens == choices[:, :-1]) & drafted(draft))
    return Accepted(counts, choices.gather(1, counts[:, None]).squeeze(1))


def chain(draft: Draft, target: Tensor, noise: Noise) -> Accepted:
    """Speculative sampling (arXiv 2211.17192): keep x_k with probability min(1, p_k(x_k) / q_k(x_k)).

    At the first rejection norm(max(0, p_k - q_k)) is sampled, after the last token p.
    """
    p, q = drafted_probabilities(draft, target)
    counts = leading((noise.accept * q < p) & drafted(draft))
    return ended(draft, target, noise, counts, p.new_ones(len(p)))


def block(draft: Draft, target: Tensor, noise: Noise) -> Accepted:
    """Block verification (arXiv 2403.10444): keep the longest prefix that passes, even if a shorter one does not.

    With R_0 = 1, R_i = min(1, R_{i-1} p_i(x_i) / q_i(x_i)) and Z_i = sum_v max(0, R_{i-1} p_i(v) - q_i(v)), prefix i
    of K passes with probability Z_{i+1} / (Z_{i+1} + 1 - R_i), the whole draft with R_K. Behind prefix i then
    norm(max(0, R_i p_{i+1} - q_{i+1})) is sampled, behind the whole draft p. On average it keeps at least as much as
    `chain`; with one drafted token, or at temperature 0, the two are the same.
    """
    steps, ours = draft.tokens.shape[1], drafted(draft)
    if not steps:
        return chain(draft, target, noise)
    p, q = drafted_probabilities(draft, target)
    ratios = torch.where(ours, p / q, 0.0)
    survival = [p.new_ones(len(p))]  # R
    for step in range(steps):
        survival.append((survival[-1] * ratios[:, step]).clamp(max=1))
    before, behind = torch.stack(survival[:-1], dim=1), torch.stack(survival[1:], dim=1)
    if draft.probabilities is None:
        surplus = before * (1 - p).clamp(min=0)  # Z
    else:
        surplus = (before[..., None] * target[:, :-1] - draft.probabilities).clamp(min=0).sum(-1)
    surplus = torch.cat((surplus[:, 1:], torch.zeros_like(surplus[:, :1])), dim=1)
    whole = surplus + 1 - behind
    numbers = torch.arange(1, steps + 1, device=p.device)
    passing = torch.where(whole > 0, surplus / whole, 1.0)
    passing = torch.where(numbers == draft.lengths.to(p.device)[:, None], behind, passing)
    counts = ((noise.accept < passing) & ours).long().mul(numbers).amax(-1)
    return ended(draft, target, noise, counts, at(torch.stack(survival, dim=1), counts))


def drafted_probabilities(draft: Draft, target: Tensor) -> tuple[Tensor, Tensor]:
    """p and q [rows, N] of the drafted tokens."""
    index = draft.tokens[..., None]
    p = target[:, :-1].gather(-1, index).squeeze(-1)
    q = torch.ones_like(p) if draft.probabilities is None else draft.probabilities.gather(-1, index).squeeze(-1)
    return p, q


def ended(draft: Draft, target: Tensor, noise: Noise, counts: Tensor, survival: Tensor) -> Accepted:
    """`counts` [rows] are kept; of the token behind them norm(max(0, survival p - q)) is sampled, p behind the last.

    survival [rows]: the share of p that is left.
    """
    at_end = at(target, counts)
    if not draft.tokens.shape[1]:
        return Accepted(counts, draw(at_end, noise.last))
    place = counts.clamp(max=draft.tokens.shape[1] - 1)
    if draft.probabilities is None:
        residual = at_end.scatter(1, at(draft.tokens, place)[:, None], 0.0)
    else:
        residual = (survival[:, None] * at_end - at(draft.probabilities, place)).clamp(min=0)
    # A residual that rounds to nothing means p = q, where rejection has probability zero but for rounding.
    rejected = (counts < draft.lengths.to(counts.device)) & (residual.sum(-1) > 0)
    return Accepted(counts, draw(torch.where(rejected[:, None], residual, at_end), noise.last))


ACCEPTANCE: dict[str, Rule] = {"chain": chain, "block": block}
TREE_ACCEPTANCE: dict[str, Rule] = {"tree_residual": tree_residual, "tree": tree}


def check_acceptance(rule: str | None, of_trees: bool = False) -> str:
    """The rule that is asked for, one for chains or one for trees; None: the first."""
    known, drafts = (TREE_ACCEPTANCE, "trees (--tree)") if of_trees else (ACCEPTANCE, "chains (no --tree)")
    if rule is not None and rule not in known:
        raise UserError(f"acceptance rule {rule!r} is not one for {drafts}; use one of {', '.join(known)}")
    return rule or next(iter(known))
