"""The command line: one thin command each; heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import cli_data
from .cli_data import DateOption, DtypeOption, TargetOption, ThinkingOption, ThreadsOption, TrustOption, set_threads
from .errors import UserError

app = typer.Typer(
    name="paradraft",
    help="Parallel draft models: train them, prove decoding lossless, measure what they gain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(cli_data.app, name="data")

PromptsOption = Annotated[list[str], typer.Option("--prompts", help="demo:math, demo:code, demo:chat or JSONL files")]
DraftLengthOption = Annotated[int | None, typer.Option("--draft-length", help="drafts a round; default: as trained")]
ModesOption = Annotated[
    list[str] | None, typer.Option("--mode", help="dependent or independent of the target's features; repeatable")
]
ModeOption = Annotated[str | None, typer.Option("--mode", help="dependent or independent of the target's features")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="only the first so many prompts of each set")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="the report, one HTML file that opens offline")] = Path(
        "demo-report.html"
    ),
    training_seconds: Annotated[int, typer.Option("--training-seconds", min=1, help="of the fresh drafter")] = 110,
) -> None:
    """The whole story on the shipped target: decode, check, train, report. A CPU and some minutes."""
    from .commands.story import tell

    tell(out, training_seconds)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML; see recipes/")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    resume: Annotated[str, typer.Option("--resume", help="auto, never, or a checkpoint directory")] = "auto",
    plan: Annotated[bool, typer.Option("--plan", help="memory, disk, steps, time; nothing is run")] = False,
    json: Annotated[bool, typer.Option("--json", help="the plan as JSON")] = False,
) -> None:
    """Train a drafter. Example: `paradraft train recipes/demo-dpace.yaml training.max_steps=50`

    Several processes: `accelerate launch -m paradraft.cli train RECIPE` or `torchrun -m paradraft.cli train RECIPE`.
    """
    from .training.config import load_config

    if plan:
        from .training.plan import print_plan

        print_plan(load_config(config, overrides or []), json)
        return
    from .training.progress import run_with_progress

    run_with_progress(load_config(config, overrides or []), resume)


@app.command("eval")
def evaluate(
    target: TargetOption = "demo",
    drafter: Annotated[list[str] | None, typer.Option("--drafter", help="directory or demo:NAME; repeatable")] = None,
    prompts: PromptsOption = ["demo:math", "demo:code", "demo:chat"],  # noqa: B006  (Typer copies it)
    temperature: Annotated[float, typer.Option("--temperature")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="0: off")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="1: off")] = 1.0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 1,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 256,
    draft_length: DraftLengthOption = None,
    mode: ModesOption = None,
    limit: LimitOption = None,
    skip_long: Annotated[bool, typer.Option("--skip-long", help="leave out prompts beyond the context")] = False,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="directory for results.json")] = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    thinking: ThinkingOption = None,
    date: DateOption = None,
) -> None:
    """Measure drafters against plain decoding. Example: `paradraft eval --drafter demo:dflash-dpace`"""
    from .decoding import Sampling
    from .evaluation.command import EvalRequest, run_eval
    from .evaluation.measure import Settings

    settings = Settings(
        Sampling(temperature, top_k, top_p), batch_size, max_new_tokens, draft_length, seed, tuple(mode or ())
    )
    drafters = drafter or ["demo:dflash-dpace"]
    set_threads(threads)
    run_eval(
        EvalRequest(
            target, drafters, prompts, settings, limit, skip_long, dtype, trust_remote_code, thinking, date, out
        )
    )


@app.command()
def verify(
    target: TargetOption = "demo",
    drafter: Annotated[str, typer.Option("--drafter", help="directory or demo:NAME")] = "demo:dflash-dpace",
    prompts: PromptsOption = ["demo:math", "demo:code", "demo:chat"],  # noqa: B006
    temperature: Annotated[float | None, typer.Option("--temperature", help="default: both 0 and 1")] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="prompts at temperature 0")] = 200,
    samples: Annotated[int, typer.Option("--samples", min=100, help="sampled continuations above 0")] = 20000,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 128,
    draft_length: DraftLengthOption = None,
    mode: ModeOption = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    thinking: ThinkingOption = None,
) -> None:
    """Check that decoding is lossless: token by token at temperature 0, as a distribution above. Exit code 1 if not."""
    from .evaluation.command import VerifyRequest, run_verify

    temperatures = [0.0, 1.0] if temperature is None else [temperature]
    set_threads(threads)
    request = VerifyRequest(
        target,
        drafter,
        prompts,
        temperatures,
        count,
        samples,
        max_new_tokens,
        draft_length,
        mode,
        dtype,
        trust_remote_code,
        thinking,
    )
    if not run_verify(request):
        raise typer.Exit(1)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="what to ask")],
    target: TargetOption = "demo",
    drafter: Annotated[str | None, typer.Option("--drafter", help="directory or demo:NAME; none: plain")] = None,
    show_rounds: Annotated[bool, typer.Option("--show-rounds", help="one colour a round, with what was kept")] = False,
    temperature: Annotated[float, typer.Option("--temperature")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k")] = 0,
    top_p: Annotated[float, typer.Option("--top-p")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 256,
    draft_length: DraftLengthOption = None,
    mode: ModeOption = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    thinking: ThinkingOption = None,
) -> None:
    """Answer one prompt. Example: `paradraft generate "What is 17 + 25?" --drafter demo:dflash-dpace --show-rounds`"""
    from .decoding import Sampling
    from .evaluation.command import GenerateRequest, run_generate

    set_threads(threads)
    sampling = Sampling(temperature, top_k, top_p)
    run_generate(
        GenerateRequest(
            target,
            drafter,
            prompt,
            sampling,
            max_new_tokens,
            draft_length,
            seed,
            show_rounds,
            mode,
            dtype,
            trust_remote_code,
            thinking,
        )
    )


@app.command("import")
def import_(
    checkpoint: Annotated[str, typer.Argument(help="directory or Hugging Face id of a published drafter")],
    out: Annotated[Path, typer.Option("--out", help="new directory")],
    target: Annotated[
        str | None, typer.Option("--target", help="its target; needed where the checkpoint leaves it open")
    ] = None,
    assume: Annotated[
        list[str] | None, typer.Option("--assume", help="decides what the checkpoint leaves open")
    ] = None,
) -> None:
    """A published DFlash, PARD, PARD-2 or speculators checkpoint as a directory to train on or decode with."""
    from .commands.exchange import run_import

    run_import(checkpoint, out, target, assume or [])


@app.command()
def export(
    drafter: Annotated[str, typer.Argument(help="directory or demo:NAME")],
    to: Annotated[str, typer.Option("--to", help="vllm, sglang, speculators, gguf, transformers or published")],
    out: Annotated[Path, typer.Option("--out", help="new directory")],
    target: Annotated[str | None, typer.Option("--target", help="its target; needed for gguf and speculators")] = None,
) -> None:
    """A drafter for the engine that serves it. Example: `paradraft export runs/x/drafter --to vllm --out served`"""
    from .commands.exchange import run_export

    run_export(drafter, to, out, target)


@app.command()
def doctor(
    target: Annotated[str | None, typer.Option("--target", help="directory, GGUF file, id, demo or smollm2")] = None,
    drafter: Annotated[str | None, typer.Option("--drafter", help="directory or demo:NAME")] = None,
    json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """What works on this machine, and which engine reads a drafter and why another does not."""
    from .commands.doctor import examine

    examine(target, drafter, json)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="run directories or results.json files")],
    out: Annotated[Path, typer.Option("--out", help="one HTML file that opens offline")] = Path("report.html"),
) -> None:
    """Draw runs and results as one page. Example: `paradraft report runs/demo-dpace --out report.html`"""
    from .evaluation.report import write_report

    write_report(results, out)
    typer.echo(f"wrote {out}")


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2, Ctrl-C is 130, all else is a traceback."""
    try:
        app()
    except UserError as error:
        print(f"paradraft: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("paradraft: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
