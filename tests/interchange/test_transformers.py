"""Transformers' own DFlash assistant on what we write for it: the same hidden states, and its `generate` runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from paradraft.drafters import DFlash
from paradraft.errors import UserError
from paradraft.interchange.exchange import export
from paradraft.models import Target
from tests.conftest import make_drafter
from tests.interchange.test_exchange import edit, saved, target

__all__ = ["target"]


def assistant(target: Target, drafter: DFlash, tmp_path: Path) -> torch.nn.Module:
    drafter.save_pretrained(tmp_path / "ours")
    export(str(tmp_path / "ours"), "transformers", tmp_path / "out")
    model, loading = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True, dtype=torch.float32)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert model.config.target_layer_ids == list(drafter.feature_layers)  # its loop takes hidden_states[i + 1]
    found: torch.nn.Module = model.eval()
    return found


def test_the_assistant_computes_what_we_do(target: Target, tmp_path: Path) -> None:
    drafter = make_drafter(target)
    model = assistant(target, drafter, tmp_path)
    torch.manual_seed(3)
    features = torch.randn(1, 7, len(drafter.feature_layers) * target.hidden_size)
    state = drafter.start(1, 32)
    anchor = torch.tensor([4])
    with torch.no_grad():
        drafter.observe(state, [0], features, torch.zeros(1, 7, dtype=torch.long), torch.tensor([7]))
        ours = drafter.draft_hidden(state, [0], anchor, 5)
        slots = torch.tensor([[4, *[drafter.config.mask_token] * 5]])
        theirs = model(noise_embeds=target.embedding(slots), context_hidden_states=features).last_hidden_state
    assert torch.allclose(theirs[:, 1:], ours, atol=1e-4)


def test_its_generate_gives_the_targets_text(target: Target, tmp_path: Path) -> None:
    model = assistant(target, make_drafter(target), tmp_path)
    prompt = torch.tensor([[5, 6, 7, 8]])
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = target.model.generate(prompt, **settings)
    drafted = target.model.generate(prompt, assistant_model=model, speculation_type="dflash", **settings)
    assert drafted[0, :16].tolist() == plain[0].tolist()


def test_the_last_layer_is_refused(target: Target, tmp_path: Path) -> None:
    ours = saved("dflash", target, tmp_path / "ours")
    edit(ours, dflash_config={"mask_token_id": 3, "target_layer_ids": [3]})
    with pytest.raises(UserError, match="nearly nothing would be accepted"):
        export(str(ours), "transformers", tmp_path / "out")
