"""`paradraft serve`: an OpenAI-compatible server, by this package's engine, vLLM or SGLang."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import UserError
from .options import (
    DateOption,
    DraftersOption,
    DtypeOption,
    TargetOption,
    ThinkingOption,
    ThreadsOption,
    TrustOption,
    draft_length_of,
    paying_draft_length,
    set_threads,
)
from .terminal import print_origin

ENGINES = ("vllm", "sglang")
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    target: TargetOption = "demo",
    drafter: DraftersOption = None,
    engine: Annotated[str, typer.Option("--engine", help="embedded, vllm or sglang")] = "embedded",
    host: Annotated[str, typer.Option("--host", help="address to listen at; 0.0.0.0: all of them")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="PARADRAFT_API_KEY", help="what clients must send", show_envvar=True),
    ] = None,
    max_rows: Annotated[int | None, typer.Option("--max-rows", min=1, help="answers at a time; default: 16")] = None,
    max_queue: Annotated[
        int | None, typer.Option("--max-queue", min=0, help="answers that may wait, the next gets 429; default: 64")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=8, help="tokens of prompt and answer; default: 8192")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1, max=31_536_000, help="seconds a request may take; default: 600")
    ] = None,
    draft_length: Annotated[
        str | None,
        paying_draft_length("for sampled answers with a seed, so that it repeats the text"),
    ] = None,
    acceptance: Annotated[
        str | None, typer.Option("--acceptance", help="chain or block; they differ above temperature 0")
    ] = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    thinking: ThinkingOption = None,
    date: DateOption = None,
    rest: Annotated[
        list[str] | None, typer.Argument(metavar="-- [OPTIONS]", help="further options of vllm or sglang")
    ] = None,
) -> None:
    """Serve a target over HTTP as OpenAI does, with a page at /.

    Example: `paradraft serve --target demo --drafter demo:dflash-dpace`. With several drafters the first one drafts,
    unless a request names another. The page offers them all.
    """
    length = draft_length_of(draft_length)
    if engine in ENGINES:
        here = {
            "--max-queue": max_queue,
            "--timeout": timeout,
            "--threads": threads,
            "--thinking": thinking,
            "--date": date,
            "--acceptance": acceptance,
        }
        for name, value in here.items():
            if value is not None:
                raise UserError(f"{name} is for --engine embedded; give {engine} its own options behind --")
        if len(drafter or []) > 1:
            raise UserError(f"{engine} drafts with one drafter; give one --drafter")
        from ..serving.real_engines import Wish, serve_elsewhere

        one = drafter[0] if drafter else None
        if one is None and draft_length is not None:
            raise UserError("--draft-length says how a drafter drafts; give one with --drafter, or leave it out")
        if length == "auto":
            raise UserError(f"{engine} drafts the same number of tokens in every round; give --draft-length a number")
        lengths = length, max_rows, max_length
        wish = Wish(target, one, host, port, api_key, *lengths, dtype, trust_remote_code, tuple(rest or ()))
        raise typer.Exit(serve_elsewhere(engine, wish))
    if engine != "embedded":
        raise UserError(f"--engine {engine!r} is not known; what is: embedded, {', '.join(ENGINES)}")
    if rest:
        raise UserError(f"{rest[0]!r} is too much: options behind -- are for --engine {' and '.join(ENGINES)}")
    if not drafter and (draft_length is not None or acceptance is not None):
        raise UserError(
            "--draft-length and --acceptance say how drafts are made and kept; give a drafter with --drafter, or leave "
            "them out"
        )
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError('serving needs packages that are not installed: pip install "paradraft[serve]"')
    from ..serving.memory import limit_kernel_caches
    from ..serving.run import bind
    from ..serving.run import serve as run
    from ..serving.service import Limits, Service, by_shown_name
    from .pair import load_pair

    limit_kernel_caches()
    set_threads(threads)
    listening = bind(host, port)
    loaded, drafters = load_pair(target, drafter or [], dtype, trust_remote_code, thinking, date)
    print_origin(Console(stderr=True), loaded)
    given: dict[str, Any] = {"max_rows": max_rows, "max_queue": max_queue, "max_length": max_length, "seconds": timeout}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    run(Service(loaded, by_shown_name(drafters), limits, length, acceptance), listening, host, api_key)
