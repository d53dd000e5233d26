"""What `eval`, `verify` and `generate` do: load, run with progress, show, write."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ..decoding import Engine, Sampling
from ..decoding.engine import check_draft_length
from ..drafters import Drafter, load_drafter
from ..errors import UserError
from ..files import make_directory, write_text
from ..models import Target
from ..models.chat import DATE_NOTE
from ..models.names import drafter_directory
from ..text.render import render_prompt
from .lossless import check_distribution, check_exact, undecided_starts
from .measure import (
    Settings,
    check_first_turns,
    environment,
    first_turn,
    first_turn_ids,
    fits,
    measure,
    result_rows,
)
from .prompts import PromptSet, load_prompts
from .tables import acceptance_table, emitted_table, rounds_text, speed_table


@dataclass(frozen=True)
class EvalRequest:
    target: str
    drafters: Sequence[str]
    prompts: Sequence[str]
    settings: Settings
    limit: int | None = None
    skip_long: bool = False
    dtype: str = "auto"
    trust_remote_code: bool = False
    thinking: bool | None = None
    date: datetime.date | None = None
    out: Path | None = None


@dataclass(frozen=True)
class VerifyRequest:
    target: str
    drafter: str
    prompts: Sequence[str]
    temperatures: Sequence[float]
    count: int = 200
    samples: int = 20000
    max_new_tokens: int = 128
    draft_length: int | None = None
    mode: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    thinking: bool | None = None


@dataclass(frozen=True)
class GenerateRequest:
    target: str
    drafter: str | None
    prompt: str
    sampling: Sampling
    max_new_tokens: int = 256
    draft_length: int | None = None
    seed: int = 0
    show_rounds: bool = False
    mode: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    thinking: bool | None = None


@contextmanager
def progress_bar(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with count, time spent and time left; yields the function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda amount: progress.advance(task, amount)


def load_pair(
    target: str,
    drafters: Sequence[str],
    dtype: str,
    trust_remote_code: bool,
    thinking: bool | None = None,
    day: datetime.date | None = None,
) -> tuple[Target, dict[str, Drafter]]:
    """The target and its drafters; the drafters' directories are looked up before anything large is loaded."""
    directories = {name: drafter_directory(name) for name in drafters}
    loaded = Target.load(target, dtype, None, trust_remote_code, thinking, day)
    return loaded, {name: load_drafter(directory, loaded) for name, directory in directories.items()}


def fitting(prompt_set: PromptSet, target: Target, max_new_tokens: int, console: Console) -> PromptSet:
    """The prompts whose first turn fits the context with its answer; how many were left out is said."""
    pairs = zip(prompt_set.prompts, first_turn_ids(target, prompt_set), strict=True)
    kept = tuple(prompt for prompt, ids in pairs if fits(target, ids, max_new_tokens))
    if len(kept) < len(prompt_set.prompts):
        left_out = len(prompt_set.prompts) - len(kept)
        console.print(f"{prompt_set.name}: {left_out} prompts are longer than the context allows and were left out")
    if not kept:
        raise UserError(f"no prompt of {prompt_set.name} fits the context of target {target.name}")
    return PromptSet(prompt_set.name, kept)


def run_eval(request: EvalRequest) -> list[dict[str, Any]]:
    """Measure every drafter on every prompt set; print the tables and write results.json under `out`."""
    console = Console()
    prompt_sets = [load_prompts(name, request.limit) for name in request.prompts]
    target, drafters = load_pair(
        request.target, request.drafters, request.dtype, request.trust_remote_code, request.thinking, request.date
    )
    if target.chat.writes_today:
        console.print(f"[yellow]note:[/] {DATE_NOTE}")
    settings = request.settings
    for drafter in drafters.values():
        check_draft_length(drafter, settings.draft_length)
    check_modes(settings.modes, drafters)
    if request.skip_long:
        prompt_sets = [fitting(s, target, settings.max_new_tokens, console) for s in prompt_sets]
    for prompt_set in prompt_sets:
        check_first_turns(target, prompt_set, settings.max_new_tokens)
    if request.out is not None:
        make_directory(request.out)
    rows: list[dict[str, Any]] = []
    for prompt_set in prompt_sets:
        ways = 1 + sum(len(settings.modes_of(drafter)) for drafter in drafters.values())
        with progress_bar(console, prompt_set.name, prompt_set.turns * ways) as advance:
            measured = measure(target, drafters, prompt_set, settings, advance)
        if left_out := prompt_set.turns - len(measured[0].generations):
            console.print(f"{prompt_set.name}: {left_out} later turns had no room in the context and were not asked")
        rows += result_rows(target, request.target, measured, prompt_set, settings)
        if request.out is not None:  # after every set, so that a long run that is stopped leaves what it measured
            write_results(request.out, rows, environment(target))
    for table in (emitted_table(rows), speed_table(rows), acceptance_table(rows)):
        console.print(table)
    if request.out is not None:
        console.print(f"wrote {request.out / 'results.json'}")
    return rows


def check_modes(modes: Sequence[str], drafters: dict[str, Drafter]) -> None:
    """Every mode asked for is one that some drafter works in."""
    known = sorted({mode for drafter in drafters.values() for mode in drafter.modes})
    for mode in modes:
        if mode not in known:
            raise UserError(f"no drafter given here works in mode {mode!r}; theirs: {', '.join(known)}")


def write_results(directory: Path, rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    text = json.dumps({"runs": rows, "environment": where}, indent=2) + "\n"
    write_text(directory / "results.json", text)


def run_verify(request: VerifyRequest) -> bool:
    """Both checks, each with its verdict in a line; False if one failed."""
    console = Console()
    sets = [load_prompts(name) for name in request.prompts]
    target, drafters = load_pair(
        request.target, [request.drafter], request.dtype, request.trust_remote_code, request.thinking
    )
    drafter = drafters[request.drafter]
    if request.mode is not None:
        drafter.set_mode(request.mode)
    for prompt_set in sets:
        check_first_turns(target, prompt_set, request.max_new_tokens)
    prompts = interleaved(target, sets, request.count)
    passed = True
    for temperature in request.temperatures:
        check = verify_exact if temperature == 0 else verify_distribution
        passed &= check(request, target, drafter, prompts, temperature, console)
    return passed


def interleaved(target: Target, sets: Sequence[PromptSet], count: int) -> list[list[int]]:
    """Ids of `count` prompts, the sets in turn."""
    longest = max(len(s.prompts) for s in sets)
    prompts = [s.prompts[i] for i in range(longest) for s in sets if i < len(s.prompts)]
    return [first_turn(target, prompt) for prompt in prompts[:count]]


def verify_exact(
    request: VerifyRequest,
    target: Target,
    drafter: Drafter,
    prompts: list[list[int]],
    temperature: float,
    console: Console,
) -> bool:
    with progress_bar(console, "temperature 0", len(prompts)) as advance:
        result = check_exact(
            target, drafter, prompts, request.max_new_tokens, draft_length=request.draft_length, advance=advance
        )
    ties = sum(divergence.tie for divergence in result.divergences)
    bugs = len(result.divergences) - ties
    console.print(
        f"temperature 0, {str(target.dtype).removeprefix('torch.')}: {result.prompts} prompts, {result.tokens} tokens, "
        f"{result.prompts - ties - bugs} texts identical, {ties} differ at a tie of the target's two best tokens, "
        f"{bugs} differ otherwise: {'passed' if result.passed else 'FAILED'}"
    )
    return result.passed


def verify_distribution(
    request: VerifyRequest,
    target: Target,
    drafter: Drafter,
    prompts: list[list[int]],
    temperature: float,
    console: Console,
) -> bool:
    sampling = Sampling(temperature)
    few = undecided_starts(target, prompts[:: max(1, len(prompts) // 4)][:4], sampling)
    with progress_bar(console, f"temperature {temperature:g}", request.samples) as advance:
        result = check_distribution(
            target,
            drafter,
            few,
            request.samples,
            sampling,
            draft_length=request.draft_length,
            advance=advance,
        )
    console.print(
        f"temperature {temperature:g}: {result.samples} samples of three tokens in {len(few)} answers, "
        f"chi-square {result.statistic:.1f} on {result.degrees} degrees of freedom, p = {result.p_value:.3g}: "
        f"{'passed' if result.passed else 'FAILED'}"
    )
    return result.passed


def run_generate(request: GenerateRequest) -> None:
    """Print the answer; with `show_rounds` colour by round and a summary."""
    console = Console()
    if not request.prompt.strip():
        raise UserError("the prompt is empty; give the text to answer")
    names = [request.drafter] if request.drafter else []
    target, drafters = load_pair(request.target, names, request.dtype, request.trust_remote_code, request.thinking)
    drafter = drafters[request.drafter] if request.drafter else None
    if drafter is not None and request.mode is not None:
        drafter.set_mode(request.mode)
    tokenizer = target.chat.tokenizer
    engine = Engine(target, drafter, request.sampling, request.draft_length, request.seed)
    prompt = render_prompt(target.chat, [{"role": "user", "content": request.prompt}])
    generation = engine.generate([prompt], request.max_new_tokens)[0]
    if not request.show_rounds:
        print(tokenizer.decode(generation.tokens, skip_special_tokens=True))
        return
    console.print(rounds_text(tokenizer, generation))
    emitted = sum(r.emitted for r in generation.rounds)
    for i, r in enumerate(generation.rounds, 1):
        drafted = tokenizer.decode(list(r.drafted))
        console.print(Text(f"{i:4d}  kept {min(r.accepted, r.emitted)} of {len(r.drafted)}: {drafted!r}"))
    console.print(
        f"{len(generation.tokens)} tokens, {len(generation.rounds)} rounds, "
        f"{emitted / max(1, len(generation.rounds)):.2f} tokens a round, {engine.seconds.decode:.2f} s"
    )
