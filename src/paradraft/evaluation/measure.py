"""Plain and drafted decoding of the same prompts in one run, one after the other on every batch."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

import torch

from ..decoding import DraftLength, Engine, Generation, Sampling, Seconds
from ..decoding.acceptance import check_acceptance
from ..decoding.costs import device_name
from ..decoding.engine import check_tree
from ..decoding.length import AUTO, check_draft_length
from ..decoding.sampling import key_of
from ..drafters import Drafter
from ..errors import UserError
from ..models import Target
from ..models.names import drafter_directory
from ..text.conversations import Message
from ..text.provenance import fingerprint, identify
from ..text.render import render_prompt
from .prompts import Prompt, PromptSet
from .results import AgainstFirst, RunResult, TimeSplit
from .statistics import acceptance, emitted_length, loop_share, mean_draft_length, paired_difference

PLAIN = "plain"
WARM_UP = 32  # tokens


@dataclass(frozen=True)
class Settings:
    """How to decode; `draft_length` None is each drafter's maximum, "auto" as many as pay."""

    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 1
    max_new_tokens: int = 256
    draft_length: DraftLength | None = None
    seed: int = 0
    acceptance: str | None = None
    tree: int | None = None
    modes: tuple[str, ...] = ()  # for drafters with several; empty: the one that each drafter prefers

    def modes_of(self, drafter: Drafter) -> tuple[str, ...]:
        return tuple(mode for mode in drafter.modes if mode in self.modes) or drafter.modes[:1]

    def check(self, drafters: Collection[Drafter]) -> None:
        """UserError if the draft length is too long for a drafter, if no drafter has one of the modes, and so on."""
        check_acceptance(self.acceptance, of_trees=bool(self.tree))
        for drafter in drafters:
            check_draft_length(drafter, self.draft_length)
            check_tree(drafter, self.tree)
        known = sorted({mode for drafter in drafters for mode in drafter.modes})
        for mode in self.modes:
            if mode not in known:
                raise UserError(f"no drafter given here works in mode {mode!r}; theirs: {', '.join(known)}")


@dataclass
class Measured:
    """All that one way of decoding (plain, or a drafter in a mode) produced on one prompt set."""

    name: str
    mode: str
    engine: Engine
    generations: list[Generation] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)  # the number of the prompt of each

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, seeds: Sequence[int] | None = None
    ) -> list[Generation]:
        if self.engine.drafter is not None:
            self.engine.drafter.set_mode(self.mode)  # a drafter may be measured in two modes
        return self.engine.generate(prompts, max_new_tokens, seeds=seeds)

    @property
    def tokens_per_second(self) -> float:
        """Decoding alone: the first token of each answer and its time belong to the prefill."""
        tokens = sum(len(g.tokens) - 1 for g in self.generations)
        return tokens / self.engine.seconds.decode if self.engine.seconds.decode else 0.0

    @property
    def rounds(self) -> int:
        return sum(len(g.rounds) for g in self.generations)


def measure(
    target: Target,
    drafters: dict[str, Drafter],
    prompt_set: PromptSet,
    settings: Settings,
    advance: Callable[[int], None] = lambda answers: None,
) -> list[Measured]:
    """Decode every batch plainly and then with each drafter, so that a slower or faster machine affects all alike.

    Later turns of a conversation follow the *plain* answers, so that all ways of decoding see the same prompts.
    If a later turn does not fit the context, the conversation ends before it; if a first turn does not, UserError.
    """
    measured = [Measured(PLAIN, "", Engine(target, None, settings.sampling))]
    for name, drafter in drafters.items():
        for mode in settings.modes_of(drafter):
            engine = Engine(
                target,
                drafter,
                settings.sampling,
                settings.draft_length,
                acceptance=settings.acceptance,
                tree=settings.tree,
            )
            measured.append(Measured(name, mode, engine))
    tokenizer = target.chat.tokenizer
    histories: list[list[Message]] = [[] for _ in prompt_set.prompts]
    ended: set[int] = set()
    warm_up(measured, first_turn_ids(target, prompt_set), settings)
    for turn in range(max(len(prompt.turns) for prompt in prompt_set.prompts)):
        asked = [i for i, prompt in enumerate(prompt_set.prompts) if turn < len(prompt.turns) and i not in ended]
        for start in range(0, len(asked), settings.batch_size):
            part = asked[start : start + settings.batch_size]
            for i in part:
                histories[i] += prompt_set.prompts[i].turns[turn]
            asked_ids = {i: ask(target, histories[i], prompt_set.prompts[i]) for i in part}
            if turn > 0:
                full = {i for i in part if not fits(target, asked_ids[i], settings.max_new_tokens)}
                advance(sum(len(prompt_set.prompts[i].turns) - turn for i in full) * len(measured))
                ended |= full
                part = [i for i in part if i not in full]
                if not part:
                    continue
            for i in part:
                check_fits(target, asked_ids[i], prompt_set, i, settings.max_new_tokens)
            prompts = [asked_ids[i] for i in part]
            seeds = [key_of(settings.seed, turn, i) for i in part]
            for way in measured:
                way.generations += way.generate(prompts, settings.max_new_tokens, seeds)
                way.prompts += part
                advance(len(part))
            for i, generation in zip(part, measured[0].generations[-len(part) :], strict=True):
                answer = tokenizer.decode(generation.tokens, skip_special_tokens=True)
                histories[i].append({"role": "assistant", "content": str(answer)})
    return measured


def warm_up(measured: Sequence[Measured], prompts: Sequence[list[int]], settings: Settings) -> None:
    """Run a few untimed rounds of each, because first calls allocate memory and compile.

    Where rounds are recorded as graphs, a whole batch of the longest prompts: the recordings go with the memory that
    they were made for, and drafted rounds have more of them than plain ones.
    """
    target = measured[0].engine.target
    batch, new = prompts[:1], WARM_UP
    if target.graphs is not None:
        batch, new = sorted(prompts, key=len)[-settings.batch_size :], settings.max_new_tokens
    room = min(new, target.context_length - max(map(len, batch)))
    for way in measured:
        if room > 0:
            way.generate(batch, room)
        way.engine.seconds = Seconds()


def fits(target: Target, ids: Sequence[int], max_new_tokens: int) -> bool:
    return len(ids) + max_new_tokens <= target.context_length


def check_fits(target: Target, ids: Sequence[int], prompt_set: PromptSet, number: int, max_new_tokens: int) -> None:
    if not fits(target, ids, max_new_tokens):
        raise UserError(
            f"prompt {prompt_set.prompts[number].id} of {prompt_set.name} has {len(ids)} tokens; with "
            f"{max_new_tokens} new ones that is more than the context of {target.context_length}: "
            "shorten it, ask for fewer new tokens, or leave it out (eval has --skip-long)"
        )


def ask(target: Target, messages: Sequence[Message], prompt: Prompt) -> list[int]:
    """Token ids of the conversation so far, ready for the target's next answer."""
    try:
        return render_prompt(target.chat, messages, prompt.tools)
    except UserError as error:
        raise UserError(f"prompt {prompt.id}: {error}") from None


def first_turn(target: Target, prompt: Prompt) -> list[int]:
    return ask(target, prompt.turns[0], prompt)


def first_turn_ids(target: Target, prompt_set: PromptSet) -> list[list[int]]:
    return [first_turn(target, prompt) for prompt in prompt_set.prompts]


def fitting(prompt_set: PromptSet, target: Target, max_new_tokens: int) -> PromptSet:
    """The prompts whose first turn and answer fit the context; UserError if none does."""
    pairs = zip(prompt_set.prompts, first_turn_ids(target, prompt_set), strict=True)
    kept = tuple(prompt for prompt, ids in pairs if fits(target, ids, max_new_tokens))
    if not kept:
        raise UserError(f"no prompt of {prompt_set.name} fits the context of target {target.name}")
    return replace(prompt_set, prompts=kept)


def interleaved(target: Target, sets: Sequence[PromptSet], count: int) -> list[list[int]]:
    """Ids of the first turns of `count` prompts, taken from the sets in turn."""
    longest = max(len(s.prompts) for s in sets)
    prompts = [s.prompts[i] for i in range(longest) for s in sets if i < len(s.prompts)]
    return [first_turn(target, prompt) for prompt in prompts[:count]]


def check_first_turns(target: Target, prompt_set: PromptSet, max_new_tokens: int) -> None:
    """UserError, before anything runs, if a first turn does not fit the context or the template refuses a turn."""
    for number, prompt in enumerate(prompt_set.prompts):
        check_fits(target, first_turn(target, prompt), prompt_set, number, max_new_tokens)
        history: list[Message] = []
        for turn in prompt.turns:
            history += turn
            ask(target, history, prompt)
            history.append({"role": "assistant", "content": "an answer"})


@dataclass(frozen=True)
class Weights:
    """Which weights are measured: the target's name as the user gave it, and fingerprints of all weight files."""

    target: str
    target_fingerprint: str | None
    drafter_fingerprints: dict[str, str | None]


def weights_of(target: str, drafters: Iterable[str]) -> Weights:
    """The weights behind names as `Target.load` and `load_drafter` take them."""
    return Weights(
        target, identify(target).fingerprint, {name: fingerprint(drafter_directory(name)) for name in drafters}
    )


def run_results(
    target: Target, weights: Weights, measured: Sequence[Measured], prompt_set: PromptSet, settings: Settings
) -> list[RunResult]:
    """One result for each drafter and mode; `measured` begins with plain decoding."""
    plain, *drafted = measured
    sampling, chat, results = settings.sampling, target.chat, []
    for way in drafted:
        steps, seconds = way.engine.draft_length, way.engine.seconds
        same = [a.tokens == b.tokens for a, b in zip(plain.generations, way.generations, strict=True)]
        against = None
        if way is not drafted[0]:
            figures = paired_difference(drafted[0].generations, way.generations, way.prompts)
            against = AgainstFirst(drafted[0].name, drafted[0].mode, *figures)
        result = RunResult(
            target=weights.target,
            target_origin=target.origin,
            target_fingerprint=weights.target_fingerprint,
            drafter=way.name,
            drafter_fingerprint=weights.drafter_fingerprints.get(way.name),
            mode=way.mode,
            prompts=prompt_set.name,
            prompts_hash=prompt_set.hash,
            prompts_source=prompt_set.source,
            prompts_licence=prompt_set.licence,
            prompt_count=len(prompt_set.prompts),
            turns_without_room=prompt_set.turns - len(plain.generations),
            template_hash=chat.template_hash,
            thinking=chat.thinking,
            date=str(chat.date) if chat.date else None,
            **asdict(sampling),
            seed=settings.seed,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            draft_length=steps,
            acceptance_rule=way.engine.acceptance,
            tree=way.engine.tree,
            adaptive=settings.draft_length == AUTO,
            mean_draft_length=mean_draft_length(way.generations),
            emitted_length=emitted_length(way.generations, way.prompts),
            loop_share=loop_share(way.generations),
            plain_loop_share=loop_share(plain.generations),
            acceptance=acceptance(way.generations, steps),
            tokens=sum(len(g.tokens) for g in way.generations),
            rounds=way.rounds,
            tokens_per_second=way.tokens_per_second,
            plain_tokens_per_second=plain.tokens_per_second,
            speedup=way.tokens_per_second / plain.tokens_per_second if plain.tokens_per_second else None,
            seconds=TimeSplit(seconds.draft, seconds.verify, seconds.other),
            prefill_seconds=seconds.prefill,
            identical=all(same) if sampling.greedy else None,
            identical_share=sum(same) / len(same) if sampling.greedy else None,
            against_first=against,
        )
        results.append(result)
    return results


def environment(target: Target) -> dict[str, Any]:
    """What is needed to repeat a figure: versions, hardware, dtype, threads."""
    device = target.device
    return {
        "paradraft": version("paradraft"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "dtype": str(target.dtype).removeprefix("torch."),
        "target_weights": target.origin or "as published",
    }
