"""Which drafted tokens are kept, and which token the target adds.

Every rule maps a draft and the target's distributions p [rows, N+1, V] (after the newest committed token and after each
drafted one) to the tokens that are kept, so that the committed text has exactly the target's own distribution. A greedy
row is one whose p and q are point masses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .draft import Accepted, Draft, Noise
from .sampling import Sampling, distributions, draw

Rule = Callable[[Draft, Tensor, Noise], Accepted]


def accept(rule: str, draft: Draft, logits: Tensor, samplings: Sequence[Sampling], noise: Noise | None) -> Accepted:
    """Apply a rule of ACCEPTANCE to the target's logits [rows, N+1, V]; without a sampled row none needs noise."""
    if noise is None:
        return follow(draft, logits.argmax(-1))
    return ACCEPTANCE[rule](draft, distributions(logits, samplings), noise)


def leading(agreed: Tensor) -> Tensor:
    """Length [rows] of the leading run of True in [rows, N]."""
    return agreed.long().cumprod(-1).sum(-1)


def drafted(draft: Draft) -> Tensor:
    """[rows, N]: which tokens are drafted and not padding."""
    device = draft.tokens.device
    return torch.arange(draft.tokens.shape[1], device=device) < draft.lengths.to(device)[:, None]


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
    tokens, q_all = draft.tokens, draft.probabilities
    p = target[:, :-1].gather(-1, tokens[..., None]).squeeze(-1)
    q = torch.ones_like(p) if q_all is None else q_all.gather(-1, tokens[..., None]).squeeze(-1)
    counts = leading((noise.accept * q < p) & drafted(draft))
    at_end = at(target, counts)
    if not tokens.shape[1]:
        return Accepted(counts, draw(at_end, noise.last))
    place = counts.clamp(max=tokens.shape[1] - 1)
    if q_all is None:
        residual = at_end.scatter(1, at(tokens, place)[:, None], 0.0)
    else:
        residual = (at_end - at(q_all, place)).clamp(min=0)
    # A residual that rounds to nothing means p = q, where rejection has probability zero but for rounding.
    rejected = (counts < draft.lengths.to(counts.device)) & (residual.sum(-1) > 0)
    return Accepted(counts, draw(torch.where(rejected[:, None], residual, at_end), noise.last))


def at(values: Tensor, places: Tensor) -> Tensor:
    """values [rows, N, ...] at one place [rows] of each row."""
    return values[torch.arange(len(values), device=values.device), places]


ACCEPTANCE: dict[str, Rule] = {"chain": chain}
