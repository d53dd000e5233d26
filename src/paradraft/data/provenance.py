"""Where answers come from: a small JSON file beside the data, checked when it is trained on.

A drafter learns to predict its target, so answers of people or of another model teach it the wrong text.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..assets import target_name, training_file
from ..errors import UserError
from ..files import write_text

SUFFIX = ".provenance.json"
EDGE = 1 << 20  # bytes hashed at either end of a weight file


@dataclass(frozen=True)
class TargetIdentity:
    """model: the name it was loaded by. revision: commit on the Hub. fingerprint: of its weight files, if at hand."""

    model: str
    revision: str | None = None
    fingerprint: str | None = None

    def same(self, other: TargetIdentity) -> bool:
        """By weights where both are known, else by name."""
        if self.fingerprint and other.fingerprint:
            return self.fingerprint == other.fingerprint
        return self.model == other.model


@dataclass(frozen=True)
class Provenance:
    """Who answered, and how. `details` is for the reader: sampling settings, counts, versions."""

    target: TargetIdentity
    template_hash: str
    thinking: bool | None
    details: dict[str, Any] = field(default_factory=dict)


def identify(name: str) -> TargetIdentity:
    """The identity of a target by directory, Hugging Face id (from the local cache) or `demo`."""
    directory = Path(target_name(name))
    if directory.is_dir():
        shown = name if name == "demo" else directory.resolve().name
        return TargetIdentity(shown, None, fingerprint(directory))
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    if not isinstance(found, str):
        return TargetIdentity(name)
    snapshot = Path(found).parent
    return TargetIdentity(name, snapshot.name, fingerprint(snapshot))


def fingerprint(directory: Path) -> str | None:
    """12 hexadecimal digits over sizes and both ends of all weight files; None where there are none."""
    digest = hashlib.sha256()
    files = sorted(directory.glob("*.safetensors"))
    for path in files:
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            digest.update(file.read(EDGE))
            file.seek(max(0, size - EDGE))
            digest.update(file.read(EDGE))
    return digest.hexdigest()[:12] if files else None


def provenance_path(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def write_provenance(path: Path, provenance: Provenance) -> None:
    """Write it beside the data file `path`."""
    write_text(provenance_path(path), json.dumps(asdict(provenance), indent=2) + "\n")


def read_provenance(path: Path) -> Provenance | None:
    """What is known of the answers in `path`; None without a file, an error if it is damaged."""
    beside = provenance_path(path)
    if not beside.is_file():
        return None
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
        return Provenance(
            TargetIdentity(**found["target"]), found["template_hash"], found["thinking"], found.get("details", {})
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{beside} is no provenance file ({error}); remove it or regenerate the answers") from None


def provenance_notes(source: str, target: TargetIdentity, template: str, thinking: bool | None) -> list[str]:
    """Warnings, in sentences, where the answers of a source are not what this target writes in this run."""
    path = training_file(source)
    found = read_provenance(path)
    if found is None:
        return [
            f"{source}: nothing says that its answers are the target's own; a drafter learns best from text its target "
            f"wrote: paradraft data regenerate --target {target.model} --prompts {source} --out answers.jsonl"
        ]
    notes = []
    if not found.target.same(target):
        notes.append(f"{source}: its answers are those of {found.target.model}, not of {target.model}; regenerate them")
    if found.template_hash != template:
        notes.append(f"{source}: its answers were given under another chat template; regenerate them")
    if found.thinking != thinking:
        notes.append(
            f"{source}: it was answered with thinking {spelled(found.thinking)}, this run renders it with thinking "
            f"{spelled(thinking)}; set data.thinking={json.dumps(found.thinking)}"
        )
    return notes


def spelled(thinking: bool | None) -> str:
    return {True: "on", False: "off", None: "as the template has it"}[thinking]
