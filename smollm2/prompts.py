"""The prompts that SmolLM2-135M-Instruct answered for the training text of the shipped `smollm2` drafters.

    python smollm2/prompts.py --data FOLDER --out prompts

FOLDER holds math.jsonl.gz, code.jsonl.gz and chat-prompts.jsonl.gz: the training prompts of GSM8K, CodeAlpaca and
MBPP, GPTeacher and self-instruct, one `{"id", "messages"}` a line. None of them occurs in a benchmark. Some are put
into the frames that benchmarks use (a boxed answer, a function to complete), and functions of Python's own library
are asked for by signature and docstring. The parts that are written are alike in their mix, so that a run may answer
each at a temperature of its own.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import random
import sysconfig
from pathlib import Path
from typing import Any

from paradraft.models.names import training_file

SHARES = {"math": 2000, "boxed": 1300, "code": 1700, "mbpp": 832, "stubs": 1300, "chat": 2000, "demo": 468}
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
STUB = "Write a solution to the following problem and make sure that it passes the tests:\n```python\n{}\n```"
CONTEST = (
    "You are an expert Python programmer. You will be given a question and will write a correct Python program for "
    "it.\n\n### Question:\n{}\n\n### Answer:\n"
)


def first_turns(path: Path) -> list[tuple[str, str]]:
    """(id, the user's first message) of every conversation."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [(str(r.get("id", f"{path.name}/{i}")), r["messages"][0]["content"]) for i, r in enumerate(records)]


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
            if (
                isinstance(node, ast.FunctionDef)
                and not node.decorator_list
                and 60 < len(doc := ast.get_docstring(node) or "") < 700
            ):
                lines = "\n".join(f"    {line}".rstrip() for line in doc.splitlines()).strip()
                found.append(
                    (f"{name}:{node.name}", f'def {node.name}({ast.unparse(node.args)}):\n    """{lines}\n    """')
                )
    return found


def choose(data: Path) -> list[dict[str, Any]]:
    draw = random.Random(0)
    math, code = first_turns(data / "math.jsonl.gz"), first_turns(data / "code.jsonl.gz")
    mbpp = [(i, p) for i, p in code if i.startswith("mbpp")]
    code = [(i, p) for i, p in code if not i.startswith("mbpp")]
    draw.shuffle(math)
    pools = {
        "math": math[: SHARES["math"]],
        "boxed": [(i, p + BOXED) for i, p in math[SHARES["math"] :]],
        "code": [(i, CONTEST.format(p) if n % 6 == 0 else p) for n, (i, p) in enumerate(code)],
        "mbpp": mbpp,
        "stubs": [(i, STUB.format(p)) for i, p in library_stubs()],
        "chat": first_turns(data / "chat-prompts.jsonl.gz"),
        "demo": first_turns(training_file("demo:train")),
    }
    chosen = []
    for name, pool in pools.items():
        for number, prompt in draw.sample(pool, min(SHARES[name], len(pool))):
            chosen.append({"id": f"{name}/{number}", "messages": [{"role": "user", "content": prompt}]})
    draw.shuffle(chosen)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="prompts-0.jsonl to prompts-3.jsonl go here")
    parser.add_argument("--parts", type=int, default=4)
    options = parser.parse_args()
    prompts = choose(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    for part in range(options.parts):
        lines = [json.dumps(prompt) + "\n" for prompt in prompts[part :: options.parts]]
        (options.out / f"prompts-{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"prompts-{part}.jsonl: {len(lines)} prompts")


if __name__ == "__main__":
    main()
