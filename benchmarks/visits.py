"""How well a sample of anchors tells which of them decoding visits: chances from it against those from all positions.

python benchmarks/visits.py --out benchmarks/results/visits.json

The target answers prompts greedily; the drafter is asked behind every position of the answers. `correlation` and `rmse`
are of `objective.anchor_weighting: visits` on the sampled anchors; `constant_rmse` that of their own mean chance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from paradraft.commands.pair import load_pair
from paradraft.decoding import Engine
from paradraft.drafters import Drafter
from paradraft.errors import run_program
from paradraft.evaluation.measure import environment, first_turn_ids
from paradraft.evaluation.prompts import load_prompts
from paradraft.files import write_text
from paradraft.models import Target
from paradraft.objectives import Blocks, Objective
from paradraft.objectives.visits import visits
from paradraft.text.batches import collate
from paradraft.text.render import Rendered
from paradraft.training.teacher import read_teacher


def confidences(target: Target, drafter: Drafter, prompt: list[int], answer: list[int]) -> tuple[Blocks, Tensor]:
    """The blocks behind all positions of an answer, and the drafter's probabilities of their labels [N, K]."""
    text = Rendered([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
    grid, objective = drafter.grid(collate([text]).to(target.device), len(answer), [0]), Objective("ce", "uniform")
    with torch.no_grad():
        features, blocks = read_teacher(target, grid, drafter.feature_layers, objective)
        log_probs = drafter.head(drafter(grid, features)).float().log_softmax(-1)
    return blocks, log_probs.gather(-1, blocks.labels[..., None]).squeeze(-1).exp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="demo")
    parser.add_argument("--drafter", default="demo:dflash-dpace", help="one that drafts all tokens at once")
    parser.add_argument("--prompts", nargs="+", default=["demo:math", "demo:code", "demo:chat"])
    parser.add_argument("--limit", type=int, default=8, help="prompts of each set")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.4, 0.7, 1.0], help="of the positions")
    parser.add_argument("--draws", type=int, default=4, help="samples of anchors from each answer")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    target, drafters = load_pair(arguments.target, [arguments.drafter], "auto", False)
    drafter = drafters[arguments.drafter]
    pairs: dict[float, list[Tensor]] = {share: [] for share in arguments.shares}
    torch.manual_seed(0)
    for name in arguments.prompts:
        asked = first_turn_ids(target, load_prompts(name, arguments.limit))
        for prompt, answer in zip(asked, Engine(target).generate(asked, arguments.max_new_tokens), strict=True):
            if len(answer.tokens) < 2:
                continue
            blocks, q = confidences(target, drafter, prompt, answer.tokens)
            assert blocks.anchors is not None and blocks.starts is not None
            exact = visits(q, blocks.valid, blocks.anchors, blocks.starts)
            for share in arguments.shares:
                for _ in range(arguments.draws):
                    kept = torch.rand(len(q)) < share
                    if kept.any():
                        part = q[kept], blocks.valid[kept], blocks.anchors[kept], blocks.starts[kept]
                        pairs[share].append(torch.stack((visits(*part), exact[kept])))
    rows = []
    for share, found in pairs.items():
        estimate, exact = both = torch.cat(found, dim=1)
        row = {
            "share": share,
            "mean": float(estimate.mean()),
            "exact_mean": float(exact.mean()),
            "correlation": float(torch.corrcoef(both)[0, 1]),
            "rmse": float((estimate - exact).square().mean().sqrt()),
            "constant_rmse": float(exact.std(correction=0)),
        }
        print(row)
        rows.append(row)
    if arguments.out:
        facts = {key: value for key, value in vars(arguments).items() if key != "out"}
        results = {**facts, "rows": rows, "environment": environment(target)}
        write_text(arguments.out, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    run_program("visits.py", main)
