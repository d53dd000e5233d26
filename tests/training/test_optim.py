"""Muon in float32 against torch's own in bfloat16, and which parameters are decayed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paradraft.training.optim import Float32Muon, make_optimizer, orthogonalized

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_steps_equal_torchs_up_to_bfloat16(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    optimizers = Float32Muon([mine], **settings), torch.optim.Muon([theirs], **settings)
    for _ in range(5):
        mine.grad = torch.randn(shape, generator=generator)
        theirs.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert (mine - start).norm() > 0.1
    assert (mine - theirs).norm() < 0.02 * (mine - start).norm()
    states = [optimizer.state_dict()["state"][0] for optimizer in optimizers]
    torch.testing.assert_close(states[0], states[1])


def test_orthogonalized_in_float32() -> None:
    matrix = torch.randn(8, 30, generator=torch.Generator().manual_seed(1))
    found = orthogonalized(matrix, COEFFICIENTS, 5, 1e-7)
    assert found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.5 and float(values.max()) < 1.5


@pytest.mark.parametrize(("device", "kind"), [("cpu", Float32Muon), ("meta", torch.optim.Muon)])
def test_muon_is_in_float32_on_cpus(device: str, kind: type[torch.optim.Optimizer]) -> None:
    made = make_optimizer("muon", nn.Linear(4, 3, device=device).named_parameters(), 0.02, 0.0)
    assert type(made.optimizers[0]) is kind


def test_adamw_decays_matrices_alone() -> None:
    model = nn.ModuleDict(
        {
            "embed_tokens": nn.Embedding(5, 4),
            "layer": nn.Linear(4, 4),
            "lm_head": nn.Linear(4, 5),
            "norm": nn.LayerNorm(4),
        }
    )
    (adamw,) = make_optimizer("adamw", model.named_parameters(), 0.1, 0.3).optimizers
    decayed = {id(p) for group in adamw.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(model["layer"].weight)}


def test_a_run_that_goes_on_decays_as_it_is_asked_now() -> None:
    named = [("w", nn.Parameter(torch.ones(4, 4))), ("norm", nn.Parameter(torch.ones(4)))]
    for name in ("adamw", "muon"):
        before, now = (make_optimizer(name, named, 0.1, decay) for decay in (0.0, 0.5))
        asked = [group["weight_decay"] for optimizer in now.optimizers for group in optimizer.param_groups]
        now.load_state_dict(before.state_dict())
        assert [g["weight_decay"] for optimizer in now.optimizers for g in optimizer.param_groups] == asked
        assert 0.5 in asked
