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
from ..interchange.contracts import facts_of, format_for, verdict
from ..interchange.exchange import export
from ..interchange.served import speculative_config, speculative_options, whole_blocks
from ..models.names import drafter_directory, found_target, shown_name


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
        kind, directory, length = prepared("vllm", wish, wish.drafter, scratch)
        speculative = ["--speculative-config", speculative_config(kind, directory, length)]
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
        kind, directory, length = prepared("sglang", wish, wish.drafter, scratch)
        speculative = speculative_options(kind, directory, length)
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


def prepared(engine: str, wish: Wish, drafter: str, scratch: Path) -> tuple[str, str, int]:
    """A drafter's kind, its directory as the engine reads it, exported if need be, and how much it drafts."""
    facts, length = facts_of(drafter, wish.target, wish.trust_remote_code), wish.draft_length
    found = verdict(engine, facts)
    if not found.reads:
        raise UserError(f"{found.engine} cannot use {drafter}: {found.why}; serve it with --engine embedded")
    if engine == "sglang" and whole_blocks(facts.kind) and length not in (None, facts.length):
        raise UserError("SGLang's DFlash always drafts a whole block; leave out --draft-length")
    directory, to = drafter_directory(drafter), format_for(engine, facts)
    if to:
        directory = scratch / "drafter"
        export(drafter, to, directory, wish.target, wish.trust_remote_code)
    if length is not None and not 1 <= length <= facts.length:
        raise UserError(f"draft length {length} is outside 1 to {facts.length}, what this drafter was trained for")
    return facts.kind, str(directory), length or facts.length
