"""vLLM and SGLang: the command that serves a target with a drafter there, and running it.

They listen themselves, so that requests, /metrics and everything else are theirs. What each reads is in
`interchange/contracts.py`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import UserError
from ..interchange.contracts import Facts, facts_of, verdicts, vllm_format
from ..interchange.exchange import export
from ..interchange.sglang import speculative_options
from ..interchange.vllm import speculative_config
from ..models.names import drafter_directory, found_target, shown_name

ENGINES = {"vllm": "vLLM", "sglang": "SGLang"}


@dataclass(frozen=True)
class Wish:
    """What to serve and where; None leaves it to the engine. `rest`: further options in the engine's own words."""

    target: str
    drafter: str | None
    host: str
    port: int
    api_key: str | None = None
    draft_length: int | None = None
    max_rows: int | None = None
    max_length: int | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    rest: Sequence[str] = ()


@dataclass(frozen=True)
class Launch:
    """A command and what its environment has more than ours."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def serve_elsewhere(engine: str, wish: Wish) -> int:
    """Run an engine until it ends; its exit code. SIGTERM reaches it, Ctrl-C does so by itself."""
    with TemporaryDirectory() as scratch:
        launch = LAUNCHES[engine](wish, Path(scratch))
        running = subprocess.Popen(launch.command, env={**os.environ, **launch.environment})
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: running.terminate()),
        }
        try:
            return running.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def vllm_launch(wish: Wish, scratch: Path) -> Launch:
    """What `vllm serve` runs; the key goes over in the environment, where other users of the machine do not see it."""
    python = python_with_vllm()
    options = {"--max-num-seqs": wish.max_rows, "--max-model-len": wish.max_length}
    speculative: list[str] = []
    if wish.drafter is not None:
        facts = readable("vllm", wish.drafter, wish.target)
        directory = drafter_for(wish.drafter, wish.target, vllm_format(facts), scratch)
        length = checked_length(wish.draft_length, facts)
        speculative = ["--speculative-config", speculative_config(facts.kind, directory, length)]
    key = {} if wish.api_key is None else {"VLLM_API_KEY": wish.api_key}
    start = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", found_target(wish.target)]
    return Launch([*start, *common(wish, options), *speculative, *wish.rest], key)


def python_with_vllm() -> str:
    """The Python of this environment, or of the one that the command `vllm` on the PATH belongs to."""
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    command = shutil.which("vllm")
    if command is None:
        raise UserError("there is no command vllm on the PATH; install vLLM, in an environment of its own if you like")
    python = Path(command).resolve().with_name("python")
    if not python.exists():
        raise UserError(f"there is no Python beside {command}; put vLLM's own environment on the PATH")
    return str(python)


def sglang_launch(wish: Wish, scratch: Path) -> Launch:
    """`python -m sglang.launch_server`; it takes the key on its command line only."""
    if importlib.util.find_spec("sglang") is None:
        raise UserError("SGLang is not installed in this environment; install it beside paradraft")
    options = {"--max-running-requests": wish.max_rows, "--context-length": wish.max_length, "--api-key": wish.api_key}
    speculative: list[str] = []
    if wish.drafter is not None:
        facts = readable("sglang", wish.drafter, wish.target)
        if facts.kind in ("dflash", "dflash2") and wish.draft_length not in (None, facts.length):
            raise UserError("SGLang's DFlash always drafts a whole block; leave out --draft-length")
        directory = drafter_for(wish.drafter, wish.target, "", scratch)
        speculative = speculative_options(facts.kind, directory, checked_length(wish.draft_length, facts))
    start = [sys.executable, "-m", "sglang.launch_server", "--model-path", found_target(wish.target)]
    return Launch([*start, *common(wish, options), *speculative, *wish.rest])


LAUNCHES = {"vllm": vllm_launch, "sglang": sglang_launch}


def common(wish: Wish, options: Mapping[str, object]) -> list[str]:
    """What both engines call alike, and those of `options` that were asked for."""
    named = {
        "--served-model-name": shown_name(wish.target),
        "--host": wish.host,
        "--port": wish.port,
        "--dtype": wish.dtype,
        **options,
    }
    given = [text for name, value in named.items() if value is not None for text in (name, str(value))]
    return [*given, *(["--trust-remote-code"] if wish.trust_remote_code else [])]


def readable(engine: str, drafter: str, target: str) -> Facts:
    """The drafter's facts; UserError with the reason if this engine cannot use it."""
    facts = facts_of(drafter, target)
    verdict = next(one for one in verdicts(facts) if one.engine.startswith(ENGINES[engine]))
    if not verdict.reads:
        raise UserError(f"{verdict.engine} cannot use {drafter}: {verdict.why}; serve it with --engine embedded")
    return facts


def drafter_for(drafter: str, target: str, to: str, scratch: Path) -> str:
    """Its directory as the engine reads it: as it is, or exported in the format `to`."""
    if not to:
        return str(drafter_directory(drafter))
    export(drafter, to, scratch / "drafter", target)
    return str(scratch / "drafter")


def checked_length(length: int | None, facts: Facts) -> int:
    if length is not None and not 1 <= length <= facts.length:
        raise UserError(f"draft length {length} is outside 1 to {facts.length}, what this drafter was trained for")
    return length or facts.length
