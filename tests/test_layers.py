"""Imports point one way, read off the syntax trees."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "paradraft"
# A part may import from its own level and from those below it.
LEVELS = [
    {"config", "errors", "files", "numbers"},
    {"models", "objectives"},
    {"drafters"},
    {"text"},
    {"decoding"},
    {"evaluation"},
    {"training", "interchange", "serving"},
    {"commands"},
    {"cli"},
]
LEVEL = {part: i for i, parts in enumerate(LEVELS) for part in parts}


def imported_parts(path: Path) -> set[str]:
    """Parts of the package that a module imports, wherever in the file, relative imports resolved."""
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*inside[: len(inside) - node.level], *(node.module or "").split(".")]
            names = [base[0]] if base[0] else [alias.name for alias in node.names]
            found.update(names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paradraft."):
            found.add((node.module or "").split(".")[1])
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if part == "__init__":
            continue
        assert part in LEVEL, f"{part} has no level yet: add it to LEVELS"
        wrong += [f"{path.name} imports {other}" for other in imported_parts(path) if LEVEL[other] > LEVEL[part]]
    assert not wrong


def test_objectives_know_tensors_only() -> None:
    for path in (PACKAGE / "objectives").glob("*.py"):
        assert imported_parts(path) <= {"objectives"}


def test_the_check_sees_imports() -> None:
    assert {"drafters", "models", "errors"} <= imported_parts(PACKAGE / "decoding" / "engine.py")
    assert "decoding" in imported_parts(PACKAGE / "commands" / "generate.py")


def test_the_annotated_tree_names_every_file() -> None:
    tree = (PACKAGE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ +(\w+\.py) ", tree, re.MULTILINE))
    missing = {path.name for path in PACKAGE.rglob("*.py")} - listed - {"__init__.py"}
    assert not missing, "add them to the tree in CONTRIBUTING.md"
