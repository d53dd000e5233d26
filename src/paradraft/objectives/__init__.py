"""Training objectives as pure functions on tensors: token loss x position weighting x named denominator."""

from .blocks import Blocks
from .objective import DENOMINATORS, Objective, ObjectiveSums, OwnLoss
from .token_losses import TOKEN_LOSSES
from .visits import ANCHOR_WEIGHTINGS
from .weightings import WEIGHTINGS

__all__ = [
    "ANCHOR_WEIGHTINGS",
    "DENOMINATORS",
    "TOKEN_LOSSES",
    "WEIGHTINGS",
    "Blocks",
    "Objective",
    "ObjectiveSums",
    "OwnLoss",
]
