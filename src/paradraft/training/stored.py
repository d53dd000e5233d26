"""Training from features on disk instead of a forward of the target in every step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..config import RunConfig
from ..drafters import Drafter, Grid
from ..errors import UserError
from ..models import Target
from ..objectives import Blocks, Objective
from ..text.feature_store import FeatureStore, store_identity
from ..text.prepare import Examples
from ..text.provenance import identify


def open_store(
    config: RunConfig, target: Target, data: Examples, drafter: Drafter, objective: Objective
) -> FeatureStore | None:
    """The features of `data.features`, checked to be those of this run; None: they are computed online."""
    directory = config.data.features
    if directory is None:
        return None
    if objective.needs_gold or objective.needs_teacher or not drafter.feature_layers:
        raise UserError(
            "data.features would save nothing: this run reads the target's distribution, or no features at all; set "
            "data.features=null"
        )
    store = FeatureStore(directory)
    identity = identify(config.target.model)
    layers, storage = drafter.feature_layers, store.identity.dtype
    store.check(store_identity(config.data, target, identity, data, layers, storage))
    return store


def read_stored(
    store: FeatureStore, target: Target, grid: Grid, feature_layers: Sequence[int], examples: Sequence[int]
) -> tuple[Tensor, Blocks]:
    """What `read_target` gives for objectives that need the labels alone; `examples`: numbers of the grid's rows."""
    features = store.batch(examples, feature_layers, grid.batch.input_ids.shape[1])
    on_device = features.to(device=target.device, dtype=target.dtype)
    return on_device, Blocks(grid.labels, grid.valid, grid.rows)
