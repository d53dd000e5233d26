"""`paradraft verify`: is decoding with a drafter lossless? Exit code 1 if it is not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import UserError
from .options import (
    AcceptanceOption,
    DateOption,
    DraftLengthOption,
    DtypeOption,
    MaxNewTokensOption,
    ModeOption,
    PromptsOption,
    TargetOption,
    ThinkingOption,
    ThreadsOption,
    TreeOption,
    TrustOption,
    draft_length_of,
    drafter_of,
    prompts_of,
    set_threads,
)
from .terminal import print_origin, progress_bar

if TYPE_CHECKING:
    from ..evaluation.lossless import DistributionResult, Divergence, ExactResult

SAMPLED_AUTO = "it samples hundreds of texts together, where --draft-length auto drafts nothing; give a number"
SHOWN = 5  # texts that differ, by name


def verify(
    target: TargetOption = "demo",
    drafter: Annotated[
        str | None,
        typer.Option(
            "--drafter", help="directory, Hugging Face id or shipped name; default: the target's dflash-dpace"
        ),
    ] = None,
    prompts: PromptsOption = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="test only this one; default: both 0 and 1")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="prompts that are answered at temperature 0")] = 200,
    samples: Annotated[
        int, typer.Option("--samples", min=100, help="continuations that are sampled above temperature 0")
    ] = 20000,
    max_new_tokens: MaxNewTokensOption = 128,
    draft_length: DraftLengthOption = None,
    tree: TreeOption = None,
    acceptance: AcceptanceOption = None,
    mode: ModeOption = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    thinking: ThinkingOption = None,
    date: DateOption = None,
) -> None:
    """Check that decoding is lossless: token by token at temperature 0, by a statistical test above. Exit 1 if not.

    Example: `paradraft verify --target demo --drafter demo:pard2 --mode independent --count 50`
    """
    from ..decoding import Sampling
    from ..decoding.length import AUTO
    from ..evaluation.lossless import DEPTH, check_distribution, check_exact, undecided_starts
    from ..evaluation.measure import check_first_turns, interleaved
    from ..evaluation.prompts import load_prompt_sets
    from .pair import load_pair

    console = Console()
    set_threads(threads)
    length = draft_length_of(draft_length)
    sets = load_prompt_sets(prompts or prompts_of(target))
    name = drafter_of(target) if drafter is None else drafter
    loaded, drafters = load_pair(target, [name], dtype, trust_remote_code, thinking, date)
    print_origin(console, loaded)
    checked = drafters[name]
    if mode is not None:
        checked.set_mode(mode)
    behind = DEPTH + checked.max_draft
    for prompt_set in sets:
        check_first_turns(loaded, prompt_set, max(max_new_tokens, 1 + behind))
    asked = interleaved(loaded, sets, count)
    console.print(f"{target} with {name}" + (f", {checked.mode}" if len(checked.modes) > 1 else ""), markup=False)
    degrees, passed = [0.0, 1.0] if temperature is None else [temperature], True
    if length == AUTO and temperature:
        raise UserError(SAMPLED_AUTO)
    if length == AUTO and temperature is None:
        degrees = [0.0]
    for degree in degrees:
        if degree == 0:
            with progress_bar(console, "temperature 0", len(asked)) as advance:
                exact = check_exact(
                    loaded,
                    checked,
                    asked,
                    max_new_tokens,
                    draft_length=length,
                    acceptance=acceptance,
                    tree=tree,
                    advance=advance,
                )
            console.print(f"temperature 0, {str(loaded.dtype).removeprefix('torch.')}: {exact_sentence(exact)}")
            passed &= exact.passed
        else:
            sampling = Sampling(degree)
            starts = undecided_starts(loaded, asked[:: max(1, len(asked) // 4)][:4], sampling, behind)
            with progress_bar(console, f"temperature {degree:g}", samples) as advance:
                found = check_distribution(
                    loaded,
                    checked,
                    starts,
                    samples,
                    sampling,
                    draft_length=length,
                    acceptance=acceptance,
                    tree=tree,
                    advance=advance,
                )
            console.print(f"temperature {degree:g}: {distribution_sentence(found, len(starts))}")
            passed &= found.passed
    if length == AUTO and temperature is None:
        console.print(f"temperature 1 is left out: {SAMPLED_AUTO}")
    if not passed:
        raise typer.Exit(1)


def exact_sentence(result: ExactResult) -> str:
    """The count; then where the first texts part that differ not at a tie."""
    bugs = [divergence for divergence in result.divergences if not divergence.tie]
    ties = len(result.divergences) - len(bugs)
    count = (
        f"{result.prompts} prompts, {result.tokens} tokens, {result.prompts - ties - len(bugs)} texts identical, "
        f"{ties} differ at a tie of the target's two best tokens, {len(bugs)} differ otherwise: "
        f"{verdict(result.passed)}"
    )
    return "\n".join([count, *map(place_sentence, bugs[:SHOWN])])


def place_sentence(divergence: Divergence) -> str:
    where = f"prompt {divergence.prompt + 1} differs from token {divergence.position + 1} of the answer on"
    if math.isinf(divergence.gap):
        return f"{where}: one text ends there"
    return f"{where}: the target's two best logits are {divergence.gap:.3g} apart there"


def distribution_sentence(result: DistributionResult, answers: int) -> str:
    return (
        f"{result.samples} samples of three tokens in {answers} answers, chi-square {result.statistic:.1f} on "
        f"{result.degrees} degrees of freedom, p = {result.p_value:.3g}: {verdict(result.passed)}"
    )


def verdict(passed: bool) -> str:
    return "passed" if passed else "FAILED"
