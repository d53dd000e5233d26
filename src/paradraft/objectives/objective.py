"""One objective = token loss x weighting x denominator. Losses come back as sums; division happens once, later.

The gradient of a global batch is (sum of the micro-batches' gradients of `loss`) / (sum of their `denominator`):
the same however the batch is split over micro-batches or ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .blocks import Blocks, QueryTerms, to_blocks
from .parameters import complete
from .token_losses import TOKEN_LOSSES, Opinion, TokenLoss, compiled_token_terms, token_terms
from .visits import ANCHOR_WEIGHTINGS, walk
from .weightings import WEIGHTINGS, Weighting

OwnLoss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor | None]
"""A drafter's own loss [M], or None: (its hidden states [M, H], draft logits [M, V], labels [M], overlaps [M])."""

# anchors    mean over a sequence's valid anchors, then mean over sequences (default for D-PACE)
# tokens     mean over valid positions
# weights    weighted mean over positions (default for decay, geometric and CAT)
# sequences  sum within a sequence, mean over sequences (as the published D-PACE code)
DENOMINATORS = ("anchors", "tokens", "weights", "sequences")


@dataclass
class ObjectiveSums:
    """Sums over the blocks seen so far. `loss` carries the gradient; all else is detached.

    The `[K]` sums are per draft position: `count` of valid labels, `outside` (those not in the draft vocabulary),
    `weight`, `cross_entropy` (of those inside), `correct` (argmax equals the label) and `reached` (and so do all before
    it). `left_out`: the target's probability outside the draft vocabulary, summed over all positions, where the
    objective reads its distribution. `own`: the drafter's own loss, summed over the learned positions;
    `learned`: how many those are. `walk_rounds`, `walk_accepted`: what `visits.walk` counted along the anchors.
    """

    loss: Tensor
    denominator: Tensor
    count: Tensor
    weight: Tensor
    cross_entropy: Tensor
    correct: Tensor
    reached: Tensor
    outside: Tensor
    left_out: Tensor
    own: Tensor
    learned: Tensor
    walk_rounds: Tensor
    walk_accepted: Tensor

    def add(self, other: ObjectiveSums) -> ObjectiveSums:
        return ObjectiveSums(*(mine + theirs for mine, theirs in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[Tensor, ...]:
        return tuple(vars(self).values())

    def detached(self) -> ObjectiveSums:
        return ObjectiveSums(*(value.detach() for value in self.values()))


@dataclass(frozen=True)
class Objective:
    """A token loss, a weighting and a denominator; `sums` of `terms` maps the logits of some blocks to ObjectiveSums.

    parameters: those of the weighting and the token loss, by name; missing ones get their defaults. denominator "auto"
    is the weighting's own. compiled: use torch.compile, with results equal up to rounding. own_overlap: the drafter's
    own loss reads the overlaps sum_v min(p, q). That loss is added to the token loss, so both have the same weights.
    alpha_end: the weighting's alpha at the end of a run that anneals it (`at`). anchor_weighting: how much an anchor
    counts beside the others of its sequence; None: all alike.
    """

    token_loss: str = "ce"
    weighting: str = "dpace"
    denominator: str = "auto"
    parameters: Mapping[str, float] = field(default_factory=dict)
    compiled: bool = False
    own_overlap: bool = False
    alpha_end: float | None = None
    anchor_weighting: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            (self.token_loss, TOKEN_LOSSES),
            (self.weighting, WEIGHTINGS),
            (self.denominator, ("auto", *DENOMINATORS)),
            (self.anchor_weighting, (None, *ANCHOR_WEIGHTINGS)),
        ):
            if name not in known:
                raise ValueError(f"{name!r} is not one of {', '.join(map(str, known))}")
        loss, weighting = TOKEN_LOSSES[self.token_loss], WEIGHTINGS[self.weighting]
        found = complete({**weighting.parameters, **loss.parameters}, self.parameters)
        weights = [name for name in loss.parameters if name.endswith("_weight")]
        if weights and not any(found[name] for name in weights):
            raise ValueError(f"{' and '.join(weights)} are both 0: nothing would be learned")
        object.__setattr__(self, "parameters", found)
        if self.alpha_end is not None:
            if "alpha" not in weighting.parameters:
                raise ValueError(f"alpha_end is set, but the weighting {self.weighting} has no alpha")
            weighting.parameters["alpha"].check("alpha_end", self.alpha_end)
        if self.denominator == "auto":
            object.__setattr__(self, "denominator", weighting.denominator)

    def at(self, share: float) -> Objective:
        """The objective when `share` of the run has passed, 0 to 1: alpha has gone so far, linearly, to alpha_end."""
        if self.alpha_end is None:
            return self
        alpha = (1 - share) * self.parameters["alpha"] + share * self.alpha_end
        return replace(self, parameters={**self.parameters, "alpha": alpha}, alpha_end=None)

    @property
    def needs_gold(self) -> bool:
        """Whether the target's probability of every label is needed."""
        return WEIGHTINGS[self.weighting].confidence == "target"

    @property
    def needs_teacher(self) -> bool:
        """Whether the target's full distributions are needed."""
        return TOKEN_LOSSES[self.token_loss].needs_teacher or self.needs_overlap

    @property
    def needs_distribution(self) -> bool:
        """Whether anything of the target's distribution is needed, its probabilities of the labels or all of it."""
        return self.needs_gold or self.needs_teacher

    @property
    def needs_overlap(self) -> bool:
        """Whether the overlap of both distributions is needed."""
        return self.own_overlap or WEIGHTINGS[self.weighting].confidence == "overlap"

    @property
    def term_arguments(self) -> tuple[bool, str, dict[str, float]]:
        """Whether overlaps are needed, the token loss and its parameters, as `token_terms` takes them."""
        return self.needs_overlap, self.token_loss, self.part(TOKEN_LOSSES[self.token_loss])

    def part(self, record: Weighting | TokenLoss) -> dict[str, float]:
        """The parameters that the weighting or the token loss takes."""
        return {name: self.parameters[name] for name in record.parameters}

    def sequence_share(self, blocks: Blocks) -> Tensor:
        """[N] numbers that add up to 1 over the blocks of every sequence that has a valid one."""
        present, rows = blocks.valid.any(-1).float(), blocks.rows
        anchors = torch.zeros(int(rows.max()) + 1 if len(rows) else 0, device=rows.device)
        return present / anchors.index_add(0, rows, present)[rows].clamp(min=1)

    def anchor_weights(self, terms: QueryTerms, blocks: Blocks) -> Tensor:
        """[N, 1], with a mean of 1 over the valid blocks of every sequence; zero for the others."""
        present = blocks.valid[:, 0]
        weights = present.float()
        if self.anchor_weighting is None:
            return weights[:, None]
        if blocks.anchors is None or blocks.starts is None:
            raise ValueError(f"the weighting of anchors {self.anchor_weighting} needs to know where they stand")
        confidence = to_blocks(terms.log_probs.exp(), blocks.valid)
        for row in blocks.rows[present].unique():
            mine = present & (blocks.rows == row)
            of_blocks = confidence[mine], blocks.valid[mine], blocks.anchors[mine], blocks.starts[mine]
            found = ANCHOR_WEIGHTINGS[self.anchor_weighting](*of_blocks)
            weights[mine] = found / found.mean()
        return weights[:, None]

    def terms(
        self,
        logits: Tensor,
        blocks: Blocks,
        own: Callable[[Tensor, Tensor | None], Tensor | None] = lambda labels, overlap: None,
    ) -> QueryTerms:
        """What `sums` needs of the logits [M, V] of the M valid queries in order. Queries do not influence each other.

        `own`: the drafter's own loss at these queries, of their labels [M] and overlaps [M].
        """
        labels, opinion = blocks.labels[blocks.valid], blocks.opinion()
        inside = labels >= 0
        compute = compiled_token_terms() if self.compiled else token_terms
        losses, log_probs, likeliest, overlaps = compute(logits, labels.clamp(min=0), opinion, *self.term_arguments)
        added = own(labels.clamp(min=0), overlaps)
        added = torch.zeros_like(losses) if added is None else added.where(blocks.learned[blocks.valid], 0.0)
        return QueryTerms(
            losses=losses.where(inside, 0.0) + added,
            log_probs=log_probs.where(inside, -torch.inf),
            hits=(likeliest == labels).float(),
            overlaps=overlaps,
            left_out=mass_outside(opinion, losses),
            own=added.detach(),
        )

    def sums(self, terms: QueryTerms, blocks: Blocks) -> ObjectiveSums:
        """The sums over whole sequences: one call must get all blocks of a sequence."""
        valid, learned, weighting = blocks.valid, blocks.learned, WEIGHTINGS[self.weighting]
        trusted = blocks.gold
        if weighting.confidence != "target":
            of_queries = terms.overlaps if weighting.confidence == "overlap" else terms.log_probs.exp()
            trusted = None if of_queries is None else to_blocks(of_queries, valid)
        if trusted is None:
            raise ValueError(f"the weighting {self.weighting} needs the target's probabilities of the labels")
        weights = weighting.weights(trusted, learned, **self.part(weighting)) * self.anchor_weights(terms, blocks)
        share = self.sequence_share(blocks)
        denominators = {
            "anchors": share.sum(),
            "sequences": share.sum(),
            "tokens": learned.sum().float(),
            "weights": weights.sum(),
        }
        of_blocks = (weights * to_blocks(terms.losses, valid)).sum(-1)
        inside = blocks.labels[valid] >= 0
        hits, rounds, accepted = to_blocks(terms.hits, valid), 0, 0
        reached = hits.cumprod(-1)
        if blocks.anchors is not None:
            rounds, accepted = walk(reached.sum(-1), valid, blocks.rows, blocks.anchors)
        return ObjectiveSums(
            loss=(of_blocks * share).sum() if self.denominator == "anchors" else of_blocks.sum(),
            denominator=denominators[self.denominator],
            count=valid.float().sum(0),
            weight=weights.sum(0),
            cross_entropy=to_blocks(-terms.log_probs.where(inside, 0.0), valid).sum(0),
            correct=hits.sum(0),
            reached=reached.sum(0),
            outside=(valid & (blocks.labels < 0)).float().sum(0),
            left_out=terms.left_out.sum(),
            own=terms.own.sum(),
            learned=learned.float().sum(),
            walk_rounds=weights.new_tensor(rounds),
            walk_accepted=weights.new_tensor(accepted),
        )


def mass_outside(opinion: Opinion | None, like: Tensor) -> Tensor:
    """The target's probability outside the draft vocabulary at each query, [M] as `like`."""
    if opinion is None or opinion.inside is None:
        return torch.zeros_like(like)
    return (1 - opinion.inside)[opinion.rows].to(like)
