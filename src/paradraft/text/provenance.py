"""Who wrote the answers in a file: a small JSON file beside it, which training compares with its own target.

A drafter learns to predict its target, so answers of people or of another model teach it the wrong text.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError
from ..files import read_json, reading, write_text
from ..models.names import shown_name, target_name, training_file

SUFFIX = ".provenance.json"
EDGE = 1 << 12  # bytes hashed at either end of a tensor


@dataclass(frozen=True)
class TargetIdentity:
    """model: the name it was loaded by. revision: commit on the Hub. fingerprint: of its weight files, if known."""

    model: str
    revision: str | None = None
    fingerprint: str | None = None

    def same(self, other: TargetIdentity) -> bool:
        """By weights where both are known, else by name and, where both are known, revision."""
        if self.fingerprint and other.fingerprint:
            return self.fingerprint == other.fingerprint
        return self.model == other.model and (not (self.revision and other.revision) or self.revision == other.revision)

    @property
    def label(self) -> str:
        """Name and what tells it from others of that name."""
        mark = self.fingerprint or self.revision
        return f"{self.model} ({mark})" if mark else self.model


@dataclass(frozen=True)
class Provenance:
    """Who answered, and how. details: sampling settings, counts and versions, for people to read.

    content: hash of the data file; None in files of older versions.
    """

    target: TargetIdentity
    template_hash: str
    thinking: bool | None
    details: dict[str, Any] = field(default_factory=dict)
    content: str | None = None


def identify(name: str) -> TargetIdentity:
    """The identity of a target by directory, Hugging Face id (from the local cache) or `demo`."""
    directory = Path(target_name(name))
    if directory.is_dir():
        return TargetIdentity(shown_name(name), None, fingerprint(directory))
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    if not isinstance(found, str):
        return TargetIdentity(name)
    snapshot = Path(found).parent
    return TargetIdentity(name, snapshot.name, fingerprint(snapshot))


def fingerprint(directory: Path) -> str | None:
    """12 hexadecimal digits over names, shapes and both ends of all tensors; None where there are no weight files.

    Every tensor counts: a fine-tune may leave embedding and head alone.
    """
    digest = hashlib.sha256()
    files = sorted(directory.glob("*.safetensors")) + sorted(directory.glob("pard2/*.safetensors"))
    for path in files:
        with path.open("rb") as file:
            header = read_header(path, file)
            digest.update(header)
            start = file.tell()
            for name, entry in json.loads(header).items():
                if name != "__metadata__":
                    first, last = entry["data_offsets"]
                    for begin in (first, max(first, last - EDGE)):
                        file.seek(start + begin)
                        digest.update(file.read(min(EDGE, last - first)))
    return digest.hexdigest()[:12] if files else None


def read_header(path: Path, file: BinaryIO) -> bytes:
    """JSON of a safetensors file, which begins with its length; the file stands behind it."""
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length) if length < path.stat().st_size else b""
    if not header.startswith(b"{"):
        raise UserError(f"{path} is no safetensors file (a pointer of Git LFS?); fetch the weights or remove it")
    return header


def content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:16]


def provenance_path(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def write_provenance(path: Path, provenance: Provenance) -> None:
    """Write it beside the data file `path`."""
    write_text(provenance_path(path), json.dumps(asdict(provenance), indent=2) + "\n")


def read_provenance(path: Path) -> Provenance | None:
    """The provenance of the answers in `path`; None if there is no such file, UserError if it is damaged."""
    beside = provenance_path(path)
    if not beside.is_file():
        return None
    with reading(beside, "a provenance file", "remove it or regenerate the answers"):
        found = read_json(beside)
        target, details = TargetIdentity(**found["target"]), found.get("details", {})
        return Provenance(target, found["template_hash"], found["thinking"], details, found.get("content"))


def provenance_notes(source: str, target: TargetIdentity, template: str, thinking: bool | None) -> list[str]:
    """Warnings, in sentences, where the answers of a source are not what this target writes in this run."""
    path = training_file(source)
    found = read_provenance(path)
    if found is None:
        return [
            f"{source}: nothing says that its answers are the target's own; a drafter learns best from text its target "
            f"wrote: paradraft data regenerate --prompts {source} --out answers.jsonl, with this --target"
        ]
    notes = []
    if found.content is not None and found.content != content_hash(path):
        notes.append(f"{source}: the file was changed after it was written; what is new may not be the target's own")
    if not found.target.same(target):
        notes.append(f"{source}: its answers are those of {found.target.label}, not of {target.label}; regenerate them")
    if found.template_hash != template:
        settings = found.details.get("settings")
        day = settings.get("date") if isinstance(settings, dict) else None
        hint = f"set data.date={day}, or regenerate them" if day else "regenerate them"
        notes.append(f"{source}: its answers were given under another chat template; {hint}")
    if found.thinking != thinking:
        notes.append(
            f"{source}: it was answered with thinking {spelled(found.thinking)}, this run renders it with thinking "
            f"{spelled(thinking)}; set data.thinking={json.dumps(found.thinking)}"
        )
    return notes


def spelled(thinking: bool | None) -> str:
    return {True: "on", False: "off", None: "as the template has it"}[thinking]
