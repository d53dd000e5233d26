"""Exported drafters in the real vLLM: its answers with and without the drafter, and what both engines accept.

vLLM lives in an environment of its own (`make test-vllm` makes .venv-vllm; a CPU does):

    python benchmarks/vllm_drafting.py --vllm-python .venv-vllm/bin/python --drafter demo:dflash-dpace \
        --out benchmarks/results/vllm-drafting.json

Temperature 0, float32, the same token ids for both engines, no stop tokens: every answer has the same length.
`accepted` counts the rounds that kept draft 1, 2, ... vLLM drafts at full length to the end, so here an answer is
decoded beyond its end and the rounds that began before it are counted.
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
    sampling = SamplingParams(temperature=0.0, max_tokens=job["max_new_tokens"], ignore_eos=True)
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


def own_run(target: Any, drafter: Any, prompts: list[list[int]], length: int) -> dict[str, Any]:
    """Our engine's answers of `length` tokens, and the rounds that began before that length."""
    from paradraft.decoding import Engine

    engine = Engine(target, drafter)
    tokens, accepted = [], []
    for ids in prompts:
        answer = engine.generate([ids], length + drafter.max_draft + 1, stop_tokens=())[0]
        tokens.append(answer.tokens[:length])
        before = 1  # the prefill's token
        for turn in answer.rounds:
            if before < length:
                accepted.append(turn.accepted)
            before += turn.emitted
    places = range(drafter.max_draft)
    return {
        "tokens": tokens,
        "rounds": len(accepted),
        "accepted": [sum(count > k for count in accepted) for k in places],
    }


def measure(
    python: str, target: str, drafter: str, prompts: list[list[int]], length: int, plain: list[list[int]]
) -> dict[str, Any]:
    """One drafter, by name or directory, exported and served by vLLM, beside our engine."""
    from paradraft.drafters import load_drafter
    from paradraft.interchange import LAYOUTS
    from paradraft.interchange.exchange import export
    from paradraft.models import Target
    from paradraft.models.names import drafter_directory, target_name

    model = Target.load(target, dtype="float32")
    own = load_drafter(drafter_directory(drafter), model)
    if "independent" in own.modes:
        own.set_mode("independent")
    reduced = own.kind == "dflash" and own.vocabulary is not None
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "drafter"
        done = export(drafter, "speculators" if reduced else "vllm", directory, target)
        speculative = {**LAYOUTS[done.kind].vllm, "model": str(directory), "num_speculative_tokens": own.max_draft}
        job = {"target": target_name(target), "prompts": prompts, "max_new_tokens": length}
        found = in_vllm(python, {**job, "speculative": speculative})
    ours = own_run(model, own, prompts, length)
    counters = found["counters"]
    return {
        "drafter": drafter,
        "kind": done.kind,
        "format": "speculators" if reduced else "vllm",
        "prompts": len(prompts),
        "same_as_plain_vllm": sum(a == b for a, b in zip(found["tokens"], plain, strict=True)),
        "same_as_paradraft": sum(a == b for a, b in zip(found["tokens"], ours["tokens"], strict=True)),
        "rounds": {"vllm": counters["vllm:spec_decode_num_drafts"], "paradraft": ours["rounds"]},
        "accepted": {
            "vllm": list(counters["vllm:spec_decode_num_accepted_tokens_per_pos"]),
            "paradraft": ours["accepted"],
        },
    }


def prompts_of(target: str, name: str, limit: int) -> list[list[int]]:
    """Token ids of the first turns of a prompt set."""
    from paradraft.evaluation.measure import first_turn_ids
    from paradraft.evaluation.prompts import load_prompts
    from paradraft.models import Target

    return first_turn_ids(Target.load(target, dtype="float32"), load_prompts(name, limit))


def plain_answers(python: str, target: str, prompts: list[list[int]], length: int) -> list[list[int]]:
    """vLLM's own answers without a drafter."""
    from paradraft.models.names import target_name

    job = {"target": target_name(target), "prompts": prompts, "max_new_tokens": length, "speculative": None}
    tokens: list[list[int]] = in_vllm(python, job)["tokens"]
    return tokens


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    from paradraft.evaluation.measure import environment
    from paradraft.models import Target

    target, length = arguments.target, arguments.max_new_tokens
    prompts = prompts_of(target, arguments.prompts, arguments.limit)
    plain = plain_answers(arguments.vllm_python, target, prompts, length)
    runs = []
    for name in arguments.drafter:
        runs.append(measure(arguments.vllm_python, target, name, prompts, length, plain))
        print(json.dumps(runs[-1]), flush=True)
    return {"runs": runs, "environment": environment(Target.load(target, dtype="float32"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python")
    parser.add_argument("--target", default="demo")
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
