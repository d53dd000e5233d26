"""How large PARD-2's feature term is beside the embeddings it is added to: compare before taking over a scale.

python benchmarks/feature_term.py --drafter demo:pard2

Root mean squares of `scale * target_proj(features)` and of the drafter's token embeddings: medians over the tokens of a
set's prompts. (Of a text's first token many targets make features that are hundreds of times as large.)
"""

from __future__ import annotations

import argparse

import torch

from paradraft.commands.pair import load_pair
from paradraft.drafters import Pard2
from paradraft.errors import run_program
from paradraft.evaluation.measure import first_turn_ids
from paradraft.evaluation.prompts import load_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="demo")
    parser.add_argument("--drafter", default="demo:pard2")
    parser.add_argument("--prompts", default="demo:math")
    parser.add_argument("--limit", type=int, default=20)
    arguments = parser.parse_args()
    target, drafters = load_pair(arguments.target, [arguments.drafter], "auto", False)
    drafter = drafters[arguments.drafter]
    if not isinstance(drafter, Pard2) or "dependent" not in drafter.modes:
        parser.error(f"{arguments.drafter} is no PARD-2 drafter that reads this target's features")
    terms, embeddings = [], []
    with torch.inference_mode():
        for prompt in first_turn_ids(target, load_prompts(arguments.prompts, arguments.limit)):
            ids = torch.tensor([prompt], device=target.device)
            features = target.features(ids, torch.zeros_like(ids), drafter.feature_layers)
            terms.append(drafter.scale * drafter.target_proj(features.to(drafter.dtype)))
            embeddings.append(drafter.embed(ids))
    for name, parts in (("feature term", terms), ("embeddings", embeddings)):
        sizes = torch.cat(parts, dim=1).float().square().mean(-1).sqrt()
        print(f"{name}: root mean square {float(sizes.median()):.3f}")


if __name__ == "__main__":
    run_program("feature_term.py", main)
