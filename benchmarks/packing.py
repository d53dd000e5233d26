"""Decoding on a CPU with linear weights packed for oneDNN against PyTorch's own products, side by side in one process.

python benchmarks/packing.py --threads 2 --out benchmarks/results/packing.json

Milliseconds a round (plain decoding: a token), median over prompts; every prompt is decoded both ways, one after the
other, so that what else runs on the machine disturbs both.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from paradraft.commands.pair import load_pair
from paradraft.decoding import Engine
from paradraft.drafters import Drafter
from paradraft.errors import run_program
from paradraft.evaluation.measure import environment, first_turn_ids
from paradraft.evaluation.prompts import load_prompts
from paradraft.files import write_text
from paradraft.models import Target
from paradraft.models.cpu_kernels import Product


def products_of(target: Target, drafter: Drafter) -> list[Product]:
    """Every product that decoding runs."""
    modules = [module for model in (target.model, drafter) for module in model.modules()]
    held = [value for module in modules for value in vars(module).values() if isinstance(value, Product)]
    return held + (target.lean.products if target.lean is not None else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--drafter", default="demo:dflash-dpace")
    parser.add_argument("--prompts", default="demo:chat")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    target, drafters = load_pair("demo", [arguments.drafter], "auto", False)
    drafter = drafters[arguments.drafter]
    products = [product for product in products_of(target, drafter) if product.packed is not None]
    if not products:
        parser.error("nothing is packed here: no oneDNN, or no CPU")
    least = [product.least for product in products]
    times: dict[str, list[dict[str, float]]] = {}
    for ids in first_turn_ids(target, load_prompts(arguments.prompts, arguments.limit)):
        for packed in (False, True):
            for product, own in zip(products, least, strict=True):
                product.least = own if packed else 2**62
            for name, by in (("plain", None), ("drafted", drafter)):
                engine = Engine(target, by)
                rounds = len(engine.generate([ids], 128)[0].rounds)
                phases = {key: 1e3 * seconds / max(1, rounds) for key, seconds in vars(engine.seconds).items()}
                times.setdefault(f"{name}, {'packed' if packed else 'unpacked'}", []).append(
                    phases | {"round": phases["draft"] + phases["verify"] + phases["other"]}
                )
    medians: dict[str, Any] = {
        name: {key: statistics.median(row[key] for row in rows) for key in ("draft", "verify", "other", "round")}
        for name, rows in times.items()
    }
    for name, phases in medians.items():
        print(f"{name:18}", {key: round(value, 2) for key, value in phases.items()})
    result = {"milliseconds": medians, "threads": arguments.threads, "environment": environment(target)}
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    run_program("packing.py", main)
