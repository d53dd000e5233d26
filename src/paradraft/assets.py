"""What ships with the package, by name: `demo`, `demo:NAME`, `demo:train`, `demo:math`."""

from __future__ import annotations

from pathlib import Path

from .errors import UserError

ASSETS = Path(__file__).parent / "demo" / "assets"


def demo_file(name: str, folder: str, suffix: str = "") -> Path:
    """The file behind `demo:NAME` in a folder of the assets; an unknown name is answered with the known ones."""
    path = ASSETS / folder / (name.removeprefix("demo:") + suffix)
    if not path.exists():
        known = sorted(f"demo:{p.name.removesuffix(suffix)}" for p in (ASSETS / folder).glob(f"*{suffix}"))
        raise UserError(f"{name} does not ship with paradraft; what does: {', '.join(known) or 'nothing'}")
    return path


def target_name(name: str) -> str:
    """`demo` is the shipped target; all else is a directory or a Hugging Face id."""
    return str(ASSETS / "target") if name == "demo" else name


def drafter_directory(name: str) -> Path:
    """`demo:NAME`, a directory, or a Hugging Face id (fetched into its cache)."""
    if name.startswith("demo:"):
        return demo_file(name, "drafters")
    path = Path(name)
    if path.exists():
        return path
    if name.count("/") == 1 and not name.startswith((".", "/")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(
                snapshot_download(
                    name, allow_patterns=["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "warp_model.bin"]
                )
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"drafter {name} is no directory here and cannot be fetched: {first}") from None
    raise UserError(f"drafter {name} does not exist; give a directory, a Hugging Face id or demo:NAME")


def training_file(name: str) -> Path:
    """`demo:train`, or the path of a JSONL file."""
    return demo_file(name, "data", ".jsonl.gz") if name.startswith("demo:") else Path(name)


def prompt_file(name: str) -> Path:
    """`demo:math`, `demo:code`, `demo:chat`, or the path of a prompt file."""
    return demo_file(name, "prompts", ".jsonl") if name.startswith("demo:") else Path(name)
