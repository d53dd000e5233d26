"""Rotary positions of draft language models, which Transformers 4 and 5 write differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paradraft.drafters import load_drafter
from paradraft.interchange.exchange import export, import_checkpoint
from paradraft.models import Target
from tests.interchange.test_exchange import config_of, edit, saved, target

__all__ = ["target"]

OLDER: list[dict[str, Any]] = [
    {"rope_theta": 1e6},
    {
        "rope_theta": 5e5,
        "rope_scaling": {
            **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 64,
        },
    },
]


def frequencies(directory: Path, target: Target) -> Tensor:
    """Of the rotary positions of a draft language model as it is loaded."""
    model: Any = load_drafter(directory, target)
    found: Tensor = model.model.base_model.rotary_emb.inv_freq
    return found


@pytest.mark.parametrize("rope", OLDER)
@pytest.mark.parametrize("kind", ["pard", "vanilla"])
def test_a_config_by_transformers_4_keeps_its_rotary_positions(
    kind: str, rope: dict[str, Any], target: Target, tmp_path: Path
) -> None:
    """It has rope_theta and rope_scaling where Transformers 5 writes rope_parameters."""
    ours = saved(kind, target, tmp_path / "ours")
    edit(ours, rope_parameters=None, **rope)
    plain, wanted = saved(kind, target, tmp_path / "plain"), frequencies(ours, target)
    import_checkpoint(str(ours), tmp_path / "imported")
    export(str(tmp_path / "imported"), "vllm", tmp_path / "exported")
    for name in ("imported", "exported"):
        assert torch.equal(frequencies(tmp_path / name, target), wanted)
    assert not torch.allclose(wanted, frequencies(plain, target))


@pytest.mark.parametrize("rope", OLDER)
@pytest.mark.parametrize("kind", ["pard", "vanilla"])
def test_an_exported_config_has_rotary_positions_for_transformers_4(
    kind: str, rope: dict[str, Any], target: Target, tmp_path: Path
) -> None:
    """A drafter of ours has rope_parameters alone, which Transformers 4 does not know."""
    ours = saved(kind, target, tmp_path / "ours")
    scaling = rope.get("rope_scaling")
    parameters = {"rope_theta": rope["rope_theta"], **(scaling or {"rope_type": "default"})}
    edit(ours, rope_parameters=parameters)
    export(str(ours), "vllm", tmp_path / "exported")
    config = config_of(tmp_path / "exported")
    assert (config["rope_theta"], config["rope_scaling"]) == (rope["rope_theta"], scaling)
    assert config["rope_parameters"] == parameters
    assert torch.equal(frequencies(tmp_path / "exported", target), frequencies(ours, target))
