"""Take a feature layer away from a DFlash or PARD-2 drafter: `python -m demo_target.drop_layer DRAFTER LAYER OUT`.

What the drafter read of that layer is predicted from its other layers by least squares over training text, and folded
into its projection. The result drafts a little worse and needs further training. The shipped demo drafters lost the
target's last layer in this way: engines give it before the final norm, loops on Transformers after it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from paradraft.config import DataSection
from paradraft.drafters import DFlash, Drafter, Pard2, load_drafter
from paradraft.models import Target
from paradraft.text.batches import collate
from paradraft.text.prepare import prepare_examples
from paradraft.text.provenance import identify

CONVERSATIONS = 400


@torch.no_grad()
def predict(target: Target, kept: tuple[int, ...], layer: int) -> Tensor:
    """[layers * H, H]: the features of `layer` as a linear function of those of `kept`, on training text."""
    examples = prepare_examples(DataSection(limit=CONVERSATIONS, max_length=512), target, identify("demo"), 0).examples
    width = target.hidden_size
    inputs = len(kept) * width
    gram, product = torch.zeros(inputs, inputs, dtype=torch.float64), torch.zeros(inputs, width, dtype=torch.float64)
    for start in range(0, len(examples), 8):
        batch = collate(examples[start : start + 8])
        features = target.features(batch.input_ids, batch.document_ids, (*kept, layer))
        x, y = features[batch.document_ids >= 0].double().split((inputs, width), dim=-1)
        gram += x.T @ x
        product += x.T @ y
    return torch.linalg.solve(gram + 1e-3 * gram.diagonal().mean() * torch.eye(inputs), product)


def without_layer(drafter: Drafter, target: Target, layer: int) -> Drafter:
    """The drafter with `layer` replaced by its best linear prediction from the other feature layers."""
    layers, width = drafter.feature_layers, target.hidden_size
    kept = tuple(i for i in layers if i != layer)
    matrix = drafter.fc if isinstance(drafter, DFlash) else drafter.target_proj
    assert isinstance(matrix, torch.nn.Linear)
    blocks = dict(zip(layers, matrix.weight.detach().double().split(width, dim=1), strict=True))
    folded = torch.cat([blocks[i] for i in kept], dim=1) + blocks[layer] @ predict(target, kept, layer).T
    if isinstance(drafter, DFlash):
        smaller = DFlash(replace(drafter.config, feature_layers=kept), target)
        smaller.load_state_dict({**drafter.state_dict(), "fc.weight": folded.float()})
        return smaller
    assert isinstance(drafter, Pard2)
    drafter.dependent_layers = drafter.feature_layers = kept
    drafter.target_proj = torch.nn.Linear(folded.shape[1], folded.shape[0], bias=False)
    drafter.target_proj.weight.data = folded.float()
    return drafter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drafter", help="directory or demo:NAME")
    parser.add_argument("layer", type=int)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    target = Target.load("demo")
    without_layer(load_drafter(arguments.drafter, target), target, arguments.layer).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
