"""Which drafted tokens are kept, and which token the target adds. Chain drafts; METHODS: arXiv 2211.17192.

Every rule maps K drafted tokens and what the target says at K + 1 positions to `accepted` [rows] in 0..K and
`next_tokens` [rows], so that the committed text has exactly the target's own distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .sampling import sample


def leading(agreed: Tensor) -> Tensor:
    """Length [rows] of the leading run of True in [rows, K]."""
    return agreed.long().cumprod(-1).sum(-1)


def accept_greedy(tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """tokens [rows, K], target logits [rows, K+1, V]: the longest prefix that is the target's argmax."""
    choices = logits.argmax(-1)
    accepted = leading(tokens == choices[:, :-1])
    return accepted, choices.gather(1, accepted[:, None]).squeeze(1)


def accept_sampled(
    tokens: Tensor, draft: Tensor | None, target: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Speculative sampling. tokens [rows, K] ~ draft [rows, K, V]; target probabilities [rows, K+1, V].

    Accept x_k with probability min(1, p_k(x_k) / q_k(x_k)); at the first rejection sample norm(max(0, p_k - q_k)),
    after K acceptances sample p_{K+1}. `draft` None stands for point masses on the tokens.
    """
    rows, steps = tokens.shape
    p = target[:, :steps].gather(-1, tokens[..., None]).squeeze(-1)
    q = torch.ones_like(p) if draft is None else draft.gather(-1, tokens[..., None]).squeeze(-1)
    uniform = torch.rand(p.shape, generator=generator, device=p.device, dtype=p.dtype)
    accepted = leading(uniform * q < p)
    row = torch.arange(rows, device=tokens.device)
    at_end = target[row, accepted]
    if steps == 0:
        return accepted, sample(at_end, generator)
    rejected = accepted < steps
    place = accepted.clamp(max=steps - 1)
    if draft is None:
        residual = at_end.scatter(1, tokens[row, place][:, None], 0.0)
    else:
        residual = (at_end - draft[row, place]).clamp(min=0)
    # A residual that rounds to nothing means p = q, where rejection has probability zero but for rounding.
    usable = rejected & (residual.sum(-1) > 0)
    return accepted, sample(torch.where(usable[:, None], residual, at_end), generator)
