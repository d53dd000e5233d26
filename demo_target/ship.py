"""Put a trained drafter among the shipped ones, in bfloat16: `python -m demo_target.ship RUN NAME`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from paradraft.drafters import DRAFTERS, kind_of
from paradraft.models import Target
from paradraft.models.names import ASSETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory; its best drafter is taken")
    parser.add_argument("name", help="what follows demo:")
    arguments = parser.parse_args()
    source, destination = arguments.run / "drafter", ASSETS / "demo" / "drafters" / arguments.name
    drafter = DRAFTERS[kind_of(source)].from_pretrained(source, Target.load("demo"), torch.bfloat16)
    shutil.rmtree(destination, ignore_errors=True)
    drafter.save_pretrained(destination)
    size = sum(path.stat().st_size for path in destination.rglob("*"))
    print(f"{destination}: {sum(p.numel() for p in drafter.parameters()):,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
