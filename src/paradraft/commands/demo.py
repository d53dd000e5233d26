"""`paradraft demo`: decode, check, train and report on a target that has a shipped drafter, in minutes on a CPU."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from ..errors import UserError
from ..files import make_directory
from .options import drafter_of, prompts_of
from .terminal import print_origin, progress_bar
from .train import by_set

if TYPE_CHECKING:
    from ..decoding import DraftLength
    from ..drafters import Drafter
    from ..evaluation.figures import PageSection
    from ..evaluation.prompts import PromptSet
    from ..evaluation.results import RunResult
    from ..models import Target
    from ..training.config import RunConfig


FRESH = "fresh D-PACE drafter"


class Shown(str, Enum):
    """The targets that the demo can show."""

    demo = "demo"
    smollm2 = "smollm2"


@dataclass(frozen=True)
class Amount:
    """How much is shown, so that two CPU cores take at most five minutes: prompts of each set, tokens of an answer.

    draft_length: as the engine takes it; "auto" where the drafter does not know every prompt.
    """

    measured: int
    checked: int
    samples: int
    tokens: int
    checked_tokens: int
    draft_length: DraftLength | None = None


AMOUNTS = {Shown.demo: Amount(8, 8, 4000, 256, 128), Shown.smollm2: Amount(2, 2, 1000, 128, 64, "auto")}


def demo(
    out: Annotated[Path, typer.Option("--out", help="the report, one HTML file that opens offline")] = Path(
        "demo-report.html"
    ),
    training_seconds: Annotated[
        int, typer.Option("--training-seconds", min=1, help="how long the fresh drafter is trained")
    ] = 110,
    target: Annotated[
        Shown | None,
        typer.Option(
            "--target",
            help="smollm2: a public LLM of 135M parameters; demo: a small target, offline; default: smollm2 if its "
            "package is installed",
        ),
    ] = None,
) -> None:
    """Decode, check, train and report, in a few minutes on a CPU. A fresh drafter is trained for the small target.

    Example: `paradraft demo --out demo-report.html --training-seconds 60`
    """
    from ..evaluation.figures import PageSection, remark, write_page
    from ..evaluation.measure import environment
    from ..evaluation.prompts import load_prompt_sets
    from ..evaluation.report import results_sections, training_sections
    from ..evaluation.results import Results
    from .pair import load_pair

    console = Console()
    make_directory(out.parent)
    if out.is_dir():
        raise UserError(f"{out} is a directory; --out takes a file, such as demo-report.html")
    target = target or usual_target(console)
    amount, name = AMOUNTS[target], drafter_of(target.value)
    console.rule("1. a target and its drafter")
    loaded, drafters = load_pair(target.value, [name], "auto", trust_remote_code=False)
    print_origin(console, loaded)
    sets = load_prompt_sets(prompts_of(target.value))
    introduce(console, loaded, drafters[name])
    console.rule("2. plain and drafted decoding, side by side")
    sections = [show_answer(console, loaded, drafters[name], prompt_set, amount) for prompt_set in sets]
    runs = measure_sets(console, target.value, loaded, drafters, sets, amount)
    console.rule("3. is it lossless?")
    sections.append(check(console, loaded, drafters[name], sets, amount))
    console.rule(f"4. a fresh D-PACE drafter for the target `demo`, {training_seconds} seconds")
    records, how = train_fresh(console, training_seconds)
    sections += results_sections(Results(runs, environment(loaded)))
    sections += [*training_sections(records, FRESH), PageSection(f"{FRESH}: machine", remark(f"{how}."))]
    write_page("paradraft demo", sections, out)
    console.rule()
    console.print(f"report: {out} (one file, opens offline)")


def usual_target(console: Console) -> Shown:
    """The public LLM if its package is installed, else the target that comes with paradraft."""
    from ..models.names import smollm2_file

    try:
        smollm2_file()
        return Shown.smollm2
    except UserError as error:
        console.print(f"note: {error}. Without it the demo shows a small target of our own")
        return Shown.demo


def introduce(console: Console, target: Target, drafter: Drafter) -> None:
    size = sum(p.numel() for p in target.model.parameters())
    drafted = sum(p.numel() for p in drafter.parameters())
    console.print(
        f"target: {type(target.model).__name__}, {size / 1e6:.1f}M parameters, {len(target.layers)} layers; "
        f"drafter: DFlash trained with D-PACE, {drafted / 1e6:.1f}M parameters, "
        f"up to {drafter.max_draft} tokens a round"
    )


def show_answer(
    console: Console, target: Target, drafter: Drafter, prompt_set: PromptSet, amount: Amount
) -> PageSection:
    """The first prompt of a set answered both ways; returns the rounds for the report."""
    from ..decoding import Engine
    from ..evaluation.figures import rounds_section
    from ..evaluation.measure import first_turn
    from ..evaluation.tables import round_pieces, rounds_text

    tokenizer = target.chat.tokenizer
    question = prompt_set.prompts[0].question
    prompt = first_turn(target, prompt_set.prompts[0])
    answers, seconds = [], []
    for engine in (Engine(target), Engine(target, drafter, draft_length=amount.draft_length)):
        engine.generate([prompt], 16)  # warm up
        before = engine.seconds.decode
        answers.append(engine.generate([prompt], amount.tokens)[0])
        seconds.append(engine.seconds.decode - before)
    plain, drafted = answers
    same = "identical text" if plain.tokens == drafted.tokens else "DIFFERENT TEXT"
    rounds = f"{len(drafted.rounds)} rounds, {(len(drafted.tokens) - 1) / max(1, len(drafted.rounds)):.1f} tokens each"
    panels = [
        Panel(Text(str(tokenizer.decode(plain.tokens))), title=f"plain: {seconds[0]:.2f} s", width=58),
        Panel(rounds_text(tokenizer, drafted), title=f"drafted: {seconds[1]:.2f} s, {rounds}", width=58),
    ]
    console.print(Text(f"{prompt_set.name}: {question}"))
    console.print(Columns(panels))
    verdict = f"{seconds[0] / seconds[1]:.2f} times as fast, {same}"
    console.print(verdict)
    pieces = round_pieces(tokenizer, drafted)
    return rounds_section(f"Rounds of an answer: {prompt_set.name}", question, pieces, verdict)


def measure_sets(
    console: Console,
    name: str,
    target: Target,
    drafters: dict[str, Drafter],
    sets: list[PromptSet],
    amount: Amount,
) -> list[RunResult]:
    """A few prompts of each set, plain and drafted, as tables; returns what results.json would hold."""
    from ..evaluation.measure import Settings, measure, run_results, weights_of
    from ..evaluation.prompts import PromptSet
    from ..evaluation.tables import acceptance_table, emitted_table, speed_table

    settings, weights = (
        Settings(max_new_tokens=amount.tokens, draft_length=amount.draft_length),
        weights_of(name, drafters),
    )
    runs: list[RunResult] = []
    for prompt_set in sets:
        part = PromptSet(prompt_set.name, prompt_set.prompts[1 : 1 + amount.measured])
        with progress_bar(console, part.name, 2 * len(part.prompts)) as advance:
            measured = measure(target, drafters, part, settings, advance)
        runs += run_results(target, weights, measured, part, settings)
    for table in (emitted_table(runs), acceptance_table(runs), speed_table(runs)):
        console.print(table)
    return runs


def check(console: Console, target: Target, drafter: Drafter, sets: list[PromptSet], amount: Amount) -> PageSection:
    """Compare token by token at temperature 0, and test the distribution of samples at 1."""
    from ..decoding import Sampling
    from ..evaluation.figures import PageSection
    from ..evaluation.lossless import DEPTH, check_distribution, check_exact, undecided_starts
    from ..evaluation.measure import first_turn

    prompts = [first_turn(target, prompt) for s in sets for prompt in s.prompts[-amount.checked :]]
    with progress_bar(console, "temperature 0", len(prompts)) as advance:
        exact = check_exact(
            target, drafter, prompts, amount.checked_tokens, draft_length=amount.draft_length, advance=advance
        )
    with progress_bar(console, "temperature 1", amount.samples) as advance:
        places = undecided_starts(target, prompts[:1], Sampling(1.0), DEPTH + drafter.max_draft)
        sampled = check_distribution(target, drafter, places, amount.samples, Sampling(1.0), advance=advance)
    dtype = str(target.dtype).removeprefix("torch.")
    lines = [
        f"temperature 0, {dtype}: {exact.prompts} prompts, {exact.tokens} tokens, "
        f"{exact.prompts - len(exact.divergences)} texts identical: {'passed' if exact.passed else 'FAILED'}",
        f"temperature 1: {sampled.samples} samples of three tokens against the target's own distribution, "
        f"p = {sampled.p_value:.3g}: {'passed' if sampled.passed else 'FAILED'}",
    ]
    for line in lines:
        console.print(line)
    return PageSection("Lossless", "".join(f"<p>{line}</p>" for line in lines))


def fresh_config(output: Path, steps: int, prompts: tuple[str, ...], every: int) -> RunConfig:
    """Like recipes/demo-dpace.yaml, but smaller, to learn much in little time."""
    from ..config import DataSection, EvaluationSection
    from ..drafters import DFlashSection
    from ..training.config import RunConfig, TrainingSection

    return RunConfig(
        drafter=DFlashSection(layers=2, block_size=8),
        data=DataSection(max_length=512, limit=3000),
        training=TrainingSection(
            epochs=100,
            max_steps=steps,
            batch_size=8,
            anchors=24,
            optimizer="muon",
            learning_rate=0.02,
            save_every=10**6,
            log_every=5,
        ),
        evaluation=EvaluationSection(prompts=prompts, every=every, limit=3, max_new_tokens=64, batch_size=3),
        output=output,
    )


def train_fresh(console: Console, seconds: int) -> tuple[list[dict[str, Any]], str]:
    """Time a few steps, then train for about `seconds`, evaluation by real decoding included.

    Returns the log, and in which precision the machine computed.
    """
    from ..evaluation.report_input import read_records
    from ..training.loop import Trainer

    with tempfile.TemporaryDirectory() as directory:
        trial = Trainer(fresh_config(Path(directory) / "trial", 5, (), 5))
        trial.run()
        started = time.perf_counter()
        trial.train_step(range(8))
        trial.train_step(range(8, 16))
        per_step = (time.perf_counter() - started) / 2
        steps = max(10, int(0.6 * seconds / per_step))  # the rest goes to evaluation
        output = Path(directory) / "run"
        trainer = Trainer(fresh_config(output, steps, tuple(prompts_of("demo")), max(1, steps // 4)))
        how = trainer.data.notes[-1]
        console.print(how)
        with progress_bar(console, "training", steps) as advance:
            done = 0

            def report(record: dict[str, Any]) -> None:
                nonlocal done
                advance(record["step"] - done)
                done = record["step"]
                if "emitted_length" in record:
                    console.print(f"step {done:4d}: emitted length {record['emitted_length']:.2f}  ({by_set(record)})")

            trainer.report = report
            trainer.run()
        return read_records(output / "metrics.jsonl"), how
