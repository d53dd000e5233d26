"""The training text of the `smollm2` drafters: prompts, the target's own answers, and the two put together.

    python smollm2/text.py prompts --data FOLDER --out prompts
    paradraft data regenerate --target smollm2 --prompts prompts/prompts-0.jsonl --out answers-0.jsonl ...
    python smollm2/text.py pack answers-0.jsonl answers-1.jsonl --out smollm2/answers-0-1.jsonl.gz
    python smollm2/text.py join --data FOLDER --answers smollm2/answers-*.jsonl.gz --out smollm2/train.jsonl.gz

FOLDER holds math.jsonl.gz, code.jsonl.gz and chat-prompts.jsonl.gz: the training prompts of GSM8K, CodeAlpaca and
MBPP, GPTeacher and self-instruct, one `{"id", "messages"}` a line. Their ids are `gsm8k-train/N`, `codealpaca/N`,
`mbpp-train/N`, `gpteacher-roleplay/N` (N counts the data set's lines from 0), `self-instruct/seed_task_N` and
`self-instruct-user/user_oriented_task_N`. None of them occurs in a benchmark. Some are put into the frames that
benchmarks use (a boxed answer; a contest's, for every sixth line of CodeAlpaca), and functions of Python's own
library are asked for by signature and docstring. The parts that are written are alike in their mix, so that each may be
answered at a temperature of its own.

The packed answers are kept with the project, so that hours of answering are spent once. The prompts are not: they
belong to the data sets, and `join` finds them by their ids.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import io
import itertools
import json
import random
import sysconfig
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from paradraft.models.names import target_name, training_file
from paradraft.text.provenance import Provenance, TargetIdentity, content_hash, read_provenance, write_provenance

SHARES = {"math": 2000, "boxed": 1300, "code": 1700, "mbpp": 832, "stubs": 1300, "chat": 2000, "demo": 468}
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
STUB = "Write a solution to the following problem and make sure that it passes the tests:\n```python\n{}\n```"
CONTEST = (
    "You are an expert Python programmer. You will be given a question and will write a correct Python program for "
    "it.\n\n### Question:\n{}\n\n### Answer:\n"
)


DATA_FILES = ("math.jsonl.gz", "code.jsonl.gz", "chat-prompts.jsonl.gz")


def first_turns(path: Path) -> list[tuple[str, str]]:
    """(id, the user's first message) of every conversation."""
    return [(str(r.get("id", f"{path.name}/{i}")), r["messages"][0]["content"]) for i, r in enumerate(read_lines(path))]


def library_stubs() -> list[tuple[str, str]]:
    """(id, source) of the documented functions of Python's own library: signature and docstring, without the body."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(("test", "idlelib", "lib2to3", "site-packages")):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in tree.body:
            doc = (ast.get_docstring(node) or "") if isinstance(node, ast.FunctionDef) else ""
            if isinstance(node, ast.FunctionDef) and not node.decorator_list and 60 < len(doc) < 700:
                lines = "\n".join(f"    {line}".rstrip() for line in doc.splitlines()).strip()
                stub = f'def {node.name}({ast.unparse(node.args)}):\n    """{lines}\n    """'
                found.append((f"{name}:{node.name}", stub))
    return found


Pools = dict[str, list[tuple[str, str]]]


def pools(data: Path, draw: random.Random, whole: bool) -> Pools:
    """(id, prompt) by kind; a problem of GSM8K is either plain or boxed, with `whole` both."""
    math, code, chat = (first_turns(data / name) for name in DATA_FILES)
    mbpp = [(i, p) for i, p in code if i.startswith("mbpp")]
    code = [(i, p) for i, p in code if not i.startswith("mbpp")]
    draw.shuffle(math)
    plain, boxed = (math, math) if whole else (math[: SHARES["math"]], math[SHARES["math"] :])
    return {
        "math": plain,
        "boxed": [(i, p + BOXED) for i, p in boxed],
        "code": [(i, CONTEST.format(p) if n % 6 == 0 else p) for n, (i, p) in enumerate(code)],
        "mbpp": mbpp,
        "stubs": [(i, STUB.format(p)) for i, p in library_stubs()],
        "chat": chat,
        "demo": first_turns(training_file("demo:train")),
    }


def choose(data: Path, whole: bool = False) -> list[dict[str, Any]]:
    """Prompts in random order: SHARES of each pool, or all but of `demo`, with every problem both plain and boxed."""
    draw = random.Random(0)
    chosen = []
    for name, pool in pools(data, draw, whole).items():
        count = len(pool) if whole and name != "demo" else min(SHARES[name], len(pool))
        for number, prompt in draw.sample(pool, count):
            chosen.append({"id": f"{name}/{number}", "messages": [{"role": "user", "content": prompt}]})
    draw.shuffle(chosen)
    return chosen


def write_prompts(data: Path, out: Path, parts: int, whole: bool) -> None:
    prompts = choose(data, whole)
    out.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        write_lines(out / f"prompts-{part}.jsonl", prompts[part::parts])


def pack(answers: list[Path], out: Path) -> None:
    """Answers without their prompts, and beside them what was asked for of the target."""
    packed, settings = [], []
    for path in answers:
        found = read_provenance(path)
        assert found is not None, f"{path} has no provenance file"
        settings.append(found)
        for record in read_lines(path):
            answer = {"id": record["id"], "answer": record["messages"][-1]["content"]}
            temperature = found.details["settings"]["temperature"]
            packed.append({**answer, "finish_reason": record["finish_reason"], "temperature": temperature})
    write_lines(out, packed)
    first = settings[0]
    details = {"parts": [part.details for part in settings]}
    target = TargetIdentity("smollm2", None, first.target.fingerprint)
    write_provenance(out, Provenance(target, first.template_hash, first.thinking, details, content_hash(out)))


def join(data: Path, answers: list[Path], out: Path, temperature: float | None = None) -> None:
    """Conversations to train on: all, or those that were answered at this temperature."""
    known = pools(data, random.Random(0), whole=True)
    prompts = {f"{name}/{number}": prompt for name, pool in known.items() for number, prompt in pool}
    found = read_provenance(answers[0])
    assert found is not None, f"{answers[0]} has no provenance file"
    joined, unknown = [], []
    for record in itertools.chain.from_iterable(map(read_lines, answers)):
        if temperature not in (None, record["temperature"]):
            continue
        if record["id"] not in prompts:
            unknown.append(record["id"])
            continue
        asked = {"role": "user", "content": prompts[record["id"]]}
        messages = [asked, {"role": "assistant", "content": record["answer"]}]
        joined.append({"id": record["id"], "messages": messages, "finish_reason": record["finish_reason"]})
    if unknown:
        print(
            f"{len(unknown)} answers are left out: {data} or this Python's library lacks their prompts ({unknown[0]})"
        )
    write_lines(out, joined)
    write_provenance(out, replace(found, content=content_hash(out)))


def coverage(answers: list[Path], sizes: tuple[int, ...] = (4096, 8192, 12288, 16384)) -> None:
    """Print which share of each kind's tokens the most frequent tokens of all answers cover."""
    tokenizer = AutoTokenizer.from_pretrained(target_name("smollm2"))
    counts: dict[tuple[str, float], Counter[int]] = defaultdict(Counter)
    for record in itertools.chain.from_iterable(map(read_lines, answers)):
        kind = record["id"].split("/")[0], record["temperature"]
        counts[kind].update(tokenizer(record["answer"]).input_ids)
    ranked = [token for token, _ in sum(counts.values(), Counter()).most_common()]
    for size in sizes:
        inside = set(ranked[:size])
        for (kind, temperature), found in sorted(counts.items()):
            share = sum(n for token, n in found.items() if token in inside) / found.total()
            print(f"{size} tokens, {kind}, temperature {temperature:g}: {share:.1%}")


def opened(path: Path, mode: str) -> Any:
    if path.suffix != ".gz":
        return path.open(mode, encoding="utf-8")
    return io.TextIOWrapper(gzip.GzipFile(path, mode[0] + "b", mtime=0), encoding="utf-8")  # the same bytes each time


def read_lines(path: Path) -> list[dict[str, Any]]:
    with opened(path, "rt") as file:
        return [json.loads(line) for line in file]


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    with opened(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    print(f"{path}: {len(records)} lines")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", type=Path, required=True)
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--out", type=Path, required=True)
    prompts = commands.add_parser("prompts", parents=[data, out])
    prompts.add_argument("--parts", type=int, default=4)
    prompts.add_argument("--whole", action="store_true", help="all the prompts of the data sets, for a GPU")
    commands.add_parser("pack", parents=[out]).add_argument("answers", type=Path, nargs="+")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--answers", type=Path, nargs="+", required=True)
    commands.add_parser("join", parents=[data, named, out]).add_argument("--temperature", type=float)
    commands.add_parser("coverage", parents=[named])
    options = vars(parser.parse_args())
    missing = [name for name in DATA_FILES if "data" in options and not (options["data"] / name).is_file()]
    if missing:
        parser.error(f"--data {options['data']} must hold {', '.join(DATA_FILES)}; {missing[0]} is not there")
    {"prompts": write_prompts, "pack": pack, "join": join, "coverage": coverage}[options.pop("command")](**options)


if __name__ == "__main__":
    main()
