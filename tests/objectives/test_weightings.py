"""Weights against published numbers, against the gradient they come from, and at their edges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from paradraft.objectives import weightings as w

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "dpace_weights.json"
CAT_GOLDEN = GOLDEN.with_name("cat_weights.json")

# Two rows of one golden case: all valid, and a hole at the second position.
CONFIDENCE = torch.tensor([[0.2794, 0.2737, 0.8621, 0.6567], [0.763, 0.7594, 0.063, 0.0576]], dtype=torch.float64)
VALID = torch.tensor([[True, True, True, True], [True, False, True, True]])
DPACE = [[1.740592, 1.100892, 0.693499, 0.314196], [1.597769, 0.0, 0.716269, 0.247752]]
PREFIX = [[0.6397, 0.407393, 0.379303, 0.314196], [0.8815, 0.0, 0.468517, 0.247752]]
CONTINUATION = [[2.720950, 2.702285, 1.82835, 1.0], [1.812557, 0.0, 1.5288, 1.0]]


def test_dpace_and_its_ablations_give_the_golden_numbers() -> None:
    for function, wanted in ((w.dpace, DPACE), (w.dpace_prefix, PREFIX), (w.dpace_continuation, CONTINUATION)):
        torch.testing.assert_close(function(CONFIDENCE, VALID, 0.5), torch.tensor(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not GOLDEN.exists(), reason="the shared golden file is not beside this checkout")
def test_all_golden_cases() -> None:
    for case in json.loads(GOLDEN.read_text())["cases"]:
        confidence, valid = torch.tensor(case["q"]), torch.tensor(case["valid"])
        for name, function in (
            ("dpace", w.dpace),
            ("prefix_only", w.dpace_prefix),
            ("continuation_only", w.dpace_continuation),
        ):
            wanted = torch.tensor(case[name])
            torch.testing.assert_close(function(confidence, valid, case["alpha"]), wanted, rtol=1e-4, atol=1e-5)


def test_cat_gives_the_golden_numbers() -> None:
    """Row a of the golden case: the target's probabilities of the tokens behind anchor a, and their weights."""
    gold = torch.tensor([[0.5725, 0.1249, 0.997, 0.1648], [0.6088, 0.0677, 1.0, 1.0]])
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    wanted = torch.tensor([[1.0, 0.5725, 0.071505, 0.071291], [1.0, 0.6088, 0.0, 0.0]])
    torch.testing.assert_close(w.cat(gold, valid), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not CAT_GOLDEN.exists(), reason="the shared golden file is not beside this checkout")
def test_all_golden_cat_weights() -> None:
    golden = json.loads(CAT_GOLDEN.read_text())
    gold = torch.tensor(golden["gold_prob"])
    for anchor, row in enumerate(golden["weights"]):
        steps = [anchor + 1 + k for k in range(len(row))]
        valid = torch.tensor([value is not None for value in row])
        confidence = torch.tensor([float(gold[t]) if t < len(gold) else 0.5 for t in steps])
        wanted = torch.tensor([value or 0.0 for value in row])
        torch.testing.assert_close(w.cat(confidence, valid), wanted, rtol=1e-4, atol=1e-5)


def test_dpace_is_the_gradient_of_expected_accepted_length() -> None:
    s = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    log_s = s.log().detach().requires_grad_()
    expected_length = log_s.exp().cumprod(-1).sum()
    expected_length.backward()
    weights = w.dpace(s, torch.ones(3, 5, dtype=torch.bool), alpha=1e-12)
    torch.testing.assert_close(weights.double(), log_s.grad, rtol=1e-5, atol=1e-6)


def test_rounds_is_the_gradient_of_rounds_per_token() -> None:
    """Two blocks, one of which ends after three tokens."""
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    log_s = torch.rand(2, 5, dtype=torch.float64).log().requires_grad_()
    expected_length = (torch.where(valid, log_s, 0.0).cumsum(-1).exp() * valid).sum(-1)
    (1 / (1 + expected_length)).sum().backward()
    weights = w.rounds(log_s.detach().exp(), valid, alpha=1e-12)
    torch.testing.assert_close(weights.double(), -log_s.grad, rtol=1e-5, atol=1e-6)
    by_hand = w.rounds(torch.tensor([[0.5, 0.0]]), torch.ones(1, 2, dtype=torch.bool), alpha=0.5)
    assert by_hand[0].tolist() == pytest.approx([1.125 / 2.125**2, 0.375 / 2.125**2])  # s = .75, .5: E[L] = .75 + .375


def test_normalized_dpace_has_the_sum_one() -> None:
    """s = .75, .5: D-PACE is 1.125, .375."""
    valid = torch.tensor([[True, True], [False, False]])
    found = w.dpace_normalized(torch.tensor([[0.5, 0.0], [0.5, 0.5]]), valid, alpha=0.5)
    assert found.tolist() == [pytest.approx([0.75, 0.25]), [0, 0]]


def test_dpace_is_prefix_times_continuation() -> None:
    confidence, valid = torch.rand(4, 7), torch.rand(4, 7) > 0.3
    product = w.dpace_prefix(confidence, valid, 0.3) * w.dpace_continuation(confidence, valid, 0.3)
    torch.testing.assert_close(w.dpace(confidence, valid, 0.3), product, rtol=1e-5, atol=1e-6)


def test_alpha_one_is_a_ramp_and_alpha_outside_is_refused() -> None:
    valid = torch.ones(2, 4, dtype=torch.bool)
    ramp = torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 2)
    assert torch.equal(w.dpace(torch.rand(2, 4), valid, 1.0), ramp)
    for function in (w.dpace, w.dpace_prefix, w.dpace_continuation):
        for alpha in (0.0, -0.1, 1.1):
            with pytest.raises(ValueError, match="alpha"):
                function(torch.rand(2, 4), valid, alpha)


def test_fixed_weights() -> None:
    valid = torch.tensor([[True, True, False]])
    assert w.uniform(valid.float(), valid).tolist() == [[1.0, 1.0, 0.0]]
    torch.testing.assert_close(w.decay(valid.float(), valid, 4.0), torch.tensor([[1.0, 0.778801, 0.0]]))
    torch.testing.assert_close(
        w.geometric(torch.rand(1, 3), torch.ones(1, 3, dtype=torch.bool), 0.8), torch.tensor([[1.0, 0.8, 0.64]])
    )


def test_no_gradient_flows_through_weights() -> None:
    confidence = torch.rand(2, 3, requires_grad=True)
    for function in (w.dpace, w.dpace_prefix, w.dpace_continuation):
        assert not function(confidence, torch.ones(2, 3, dtype=torch.bool), 0.5).requires_grad


def test_confidence_of_zero_stays_finite() -> None:
    valid = torch.ones(1, 40, dtype=torch.bool)
    for function in (w.dpace, w.dpace_prefix, w.dpace_continuation):
        assert torch.isfinite(function(torch.zeros(1, 40), valid, 0.01)).all()
