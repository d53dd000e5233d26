"""What layers attend to: windows against Transformers' own forward, generation and masks, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from paradraft.decoding import Engine
from paradraft.drafters import Vanilla
from paradraft.drafters.language_model_start import starting_model
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.models.attention import document_attention, newest, refuse_unsupported, rope_types, sliding_window
from tests.conftest import make_drafter, make_model

SLIDING = ("gemma3", "gpt_oss", "mistral")


@pytest.mark.parametrize("family", SLIDING)
def test_a_window_changes_what_is_written(family: str) -> None:
    """Else the comparisons with Transformers would hold without any window."""
    target, ids = Target(make_model(family)), torch.randint(1, 40, (1, 12))
    documents = torch.zeros_like(ids)
    assert sliding_window(target.config) == 5
    logits = target.logits(ids, documents)[0, -1]
    target.config.sliding_window = 50
    assert not torch.allclose(logits, target.logits(ids, documents)[0, -1], atol=1e-3)


@pytest.mark.parametrize("family", SLIDING)
def test_drafted_and_plain_decoding_write_what_transformers_generates(family: str) -> None:
    model = make_model(family)
    target = Target(model)
    prompts = [torch.randint(1, 40, (n,)).tolist() for n in (3, 9, 14)]
    plain = [g.tokens for g in Engine(target).generate(prompts, 24)]
    for prompt, tokens in zip(prompts, plain, strict=True):
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, pad_token_id=0)
        assert theirs[0, len(prompt) :].tolist() == tokens
    drafted = Engine(target, make_drafter(target)).generate(prompts, 24)
    assert [g.tokens for g in drafted] == plain and any(r.accepted < len(r.drafted) for r in drafted[0].rounds)


@pytest.mark.parametrize("family", SLIDING)
def test_packed_documents_have_windows_of_their_own(family: str) -> None:
    target = Target(make_model(family))
    parts = [torch.randint(1, 40, (n,)) for n in (9, 4, 11)]
    documents = torch.cat([torch.full((len(part),), n) for n, part in enumerate(parts)])[None]
    packed = target.logits(torch.cat(parts)[None], documents)[0]
    for number, part in enumerate(parts):
        alone = target.logits(part[None], torch.zeros(1, len(part), dtype=torch.long))[0]
        torch.testing.assert_close(packed[documents[0] == number], alone, rtol=1e-4, atol=2e-4)


def test_a_window_counts_positions_not_places() -> None:
    """In a tree of drafts and among packed documents, what stands between two tokens of a text is no part of it."""
    _, visible = document_attention(torch.tensor([[0, 0, 0, 1, 1, 1]]))
    assert newest(visible, 2)[0, 2].tolist() == [False, True, True, False, False, False]
    assert newest(visible, 2)[0, 5].tolist() == [False, False, False, False, True, True]
    # Two committed tokens, a drafted one, its two children, and a child of the second.
    family = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 1]]).bool()
    assert newest(family[None], 3)[0].int().tolist() == [
        [1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 1, 0],
        [0, 0, 1, 0, 1, 1],
    ]
    assert torch.equal(newest(visible, 6), visible)


@pytest.mark.parametrize("family", SLIDING)
def test_draft_models_made_from_a_sliding_target_have_full_attention(family: str) -> None:
    target = Target(make_model(family))
    plain = Engine(target).generate([[1, 2, 3, 4, 5, 6, 7]], 12)[0]
    for start in (None, "target"):
        section = SimpleNamespace(init_from=start, layers=2, hidden_size=None)
        drafter = Vanilla(starting_model(section, target), target, 3).eval()  # type: ignore[arg-type]
        assert Engine(target, drafter).generate([[1, 2, 3, 4, 5, 6, 7]], 12)[0].tokens == plain.tokens


def test_models_that_cannot_be_rolled_back_are_refused_in_a_sentence() -> None:
    recurrent = make_model("qwen3")
    recurrent.config.layer_types = ["linear_attention"] * 4
    with pytest.raises(UserError, match="linear_attention layers; a recurrent state cannot take back the tokens of a"):
        Target(recurrent)
    stateful = SimpleNamespace(_is_stateful=True)
    with pytest.raises(UserError, match="target t has recurrent layers; a recurrent state cannot take back"):
        refuse_unsupported(SimpleNamespace(), stateful, "target t")  # type: ignore[arg-type]


def test_positions_that_depend_on_the_batch_are_refused() -> None:
    for rope in (
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        {
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_theta": 1e4,
        },
    ):
        model = make_model("llama", rope_parameters=rope)
        with pytest.raises(UserError, match=f"type {rope['rope_type']}, whose frequencies follow the longest text"):
            Target(model)
        with pytest.raises(UserError, match=r"draft model .*whose frequencies follow the longest text"):
            Vanilla(model, Target(make_model("llama")), 3)
    assert rope_types(make_model("gemma3").config) == ["None", "default", "default"]
