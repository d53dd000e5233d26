"""Kill `paradraft data regenerate` at random moments until it is done; the file must equal that of a quiet run.

python benchmarks/regenerate_kills.py --target demo --prompts train/math.jsonl.gz --limit 500 \
    --out benchmarks/results/regenerate-kills.json -- --drafter demo:dflash-dpace --max-new-tokens 256

What stands behind `--` goes to both runs. Moments are drawn so that at least --kills of them come before the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(arguments: argparse.Namespace, out: Path) -> list[str]:
    fixed = ["data", "regenerate", "--target", arguments.target, "--prompts", arguments.prompts]
    limit = ["--limit", str(arguments.limit), "--out", str(out)]
    return [sys.executable, "-m", "paradraft.cli", *fixed, *limit, *arguments.extra]


def seconds_of(call: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(call, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_with_kills(call: list[str], mean_seconds: float, rng: random.Random) -> list[float]:
    """Seconds after which each killed process died."""
    lived: list[float] = []
    while True:
        started = time.perf_counter()
        process = subprocess.Popen(call, stderr=subprocess.DEVNULL)
        try:
            code = process.wait(timeout=rng.uniform(0.3, 1.7) * mean_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            lived.append(round(time.perf_counter() - started, 2))
            continue
        if code:
            raise SystemExit(f"the command failed with exit code {code}")
        return lived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="demo")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--start-up", type=float, default=8.0, help="seconds a process needs before its first answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("extra", nargs="*", help="more options of the command, behind --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        quiet, killed = Path(directory) / "quiet.jsonl", Path(directory) / "killed.jsonl"
        seconds = seconds_of(command(arguments, quiet))
        working = max(1.0, seconds - arguments.start_up)
        mean = arguments.start_up + working / (2 * arguments.kills)
        lived = run_with_kills(command(arguments, killed), mean, random.Random(arguments.seed))
        result = {
            "prompts": Path(arguments.prompts).name,
            "limit": arguments.limit,
            "options": arguments.extra,
            "seconds_without_kills": round(seconds, 1),
            "kills": len(lived),
            "killed_after_seconds": lived,
            "answers": len(quiet.read_text(encoding="utf-8").splitlines()),
            "identical": quiet.read_bytes() == killed.read_bytes(),
            "sha256": hashlib.sha256(quiet.read_bytes()).hexdigest(),
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    if not result["identical"] or len(lived) < arguments.kills:
        raise SystemExit("the files differ" if not result["identical"] else "too few kills; lower --start-up")


if __name__ == "__main__":
    main()
