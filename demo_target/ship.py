"""Put a trained drafter among the shipped ones, in bfloat16: `python -m demo_target.ship RUN NAME [--target T]`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from paradraft.drafters import DRAFTERS, kind_of
from paradraft.files import whole_directory
from paradraft.models import Target
from paradraft.models.names import ASSETS, TARGETS


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory; its best drafter is taken")
    parser.add_argument("name", help="what follows the target's name and a colon")
    parser.add_argument("--target", choices=TARGETS, default="demo", help="the target it was trained for")
    asked = parser.parse_args(arguments)
    source, destination = asked.run / "drafter", ASSETS / asked.target / "drafters" / asked.name
    drafter = DRAFTERS[kind_of(source)].from_pretrained(source, Target.load(asked.target), torch.bfloat16)
    shutil.rmtree(destination, ignore_errors=True)
    with whole_directory(destination) as directory:
        drafter.save_pretrained(directory)
    size = sum(path.stat().st_size for path in destination.rglob("*"))
    print(f"{destination}: {sum(p.numel() for p in drafter.parameters()):,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
