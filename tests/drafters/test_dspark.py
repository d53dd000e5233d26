"""DSpark: its heads by hand, its loss terms as published, the layout of its slots, and the cut."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from paradraft.decoding import Engine, Sampling
from paradraft.decoding.history import ChainHistory
from paradraft.decoding.length import Adaptive
from paradraft.decoding.request import Sequence
from paradraft.drafters import Batch, DSpark, load_drafter
from paradraft.drafters.dspark import DSparkConfig, DSparkSection, MarkovHead
from paradraft.errors import UserError
from paradraft.evaluation.lossless import check_distribution
from paradraft.models import Target
from paradraft.objectives import Blocks, Objective
from paradraft.objectives.chunked_head import chunked_head, unchunked_head
from paradraft.training.teacher import read_teacher
from tests.conftest import make_drafter_of
from tests.decoding.test_length import Given


def spark(target: Target, draft_length: int = 5, **own: Any) -> DSpark:
    drafter = make_drafter_of("dspark", target, draft_length, **own)
    assert isinstance(drafter, DSpark)
    return drafter


@pytest.mark.parametrize("name", ["vanilla", "gated", "rnn"])
def test_markov_heads_by_hand(name: str, target: Target) -> None:
    """Rank 1 and scalars: e = 2 then 3, h = 0.5 then -1; every weight 1, every bias 0.1."""
    config = spark(target, markov_head=name).config
    made = DSparkConfig(**{**vars(config), "hidden_size": 1, "markov_rank": 1})
    head = MarkovHead(made)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(0.1 if parameter.ndim == 1 else 1.0)
    embedded, hidden = torch.tensor([[[2.0], [3.0]]]), torch.tensor([[[0.5], [-1.0]]])

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    wanted = [2.0, 3.0]
    if name == "gated":
        wanted = [2 * sigmoid(0.5 + 2 + 0.1), 3 * sigmoid(-1 + 3 + 0.1)]
    elif name == "rnn":  # gate, candidate and output are the same sum here
        first = 0 + 2 + 0.5 + 0.1
        state = (1 - sigmoid(first)) * math.tanh(first)
        wanted = [math.tanh(first), math.tanh(state + 3 - 1 + 0.1)]
    assert head.unrolled(embedded, hidden).flatten().tolist() == pytest.approx(wanted)


def test_every_slot_drafts(target: Target) -> None:
    """B = K: the anchor's own slot predicts the next token, the last of B slots token a + B."""
    drafter = spark(target, 5)
    assert drafter.config.block_size == drafter.max_draft == 5
    ids = torch.randint(1, 39, (1, 14), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids, torch.ones_like(ids).bool(), torch.zeros_like(ids))
    grid = drafter.grid(batch, 14, [0])
    hidden = drafter(grid, target.features(ids, torch.zeros_like(ids), drafter.feature_layers))
    assert hidden.shape == (len(grid.anchors), 5, 32 + 8 + 1)


def test_a_fresh_drafter_has_no_bias_and_the_bias_is_of_the_token_before(target: Target) -> None:
    values = {"layers": 2, "block_size": 5, "markov_rank": 8}
    fresh = DSpark.create(DSparkSection.model_validate(values), target).eval()
    ids = torch.randint(1, 39, (1, 14), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids, torch.ones_like(ids).bool(), torch.zeros_like(ids))
    grid = fresh.grid(batch, 14, [0])
    features = target.features(ids, torch.zeros_like(ids), fresh.feature_layers)
    with torch.no_grad():
        plain = fresh.head(fresh(grid, features))
        torch.testing.assert_close(plain, target.head(fresh(grid, features)[..., :32]))
        torch.nn.init.normal_(fresh.markov_head.markov_w2.weight)
        bias = fresh.head(fresh(grid, features)) - plain
        before = torch.cat((grid.anchor_tokens[:, None], grid.labels[:, :-1]), dim=1)
        wanted = fresh.markov_head.markov_w1.weight[before] @ fresh.markov_head.markov_w2.weight.T
    torch.testing.assert_close(bias, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weighting", ["decay", "dpace"])
def test_loss_terms_are_the_published_ones_under_any_weighting(weighting: str, target: Target) -> None:
    """0.1 CE + 0.9 L1 + BCE of the confidence with 1 - L1 / 2, each weighted and divided alike."""
    drafter = spark(target)
    ids = torch.randint(1, 39, (2, 14), generator=torch.Generator().manual_seed(1))
    documents = torch.zeros_like(ids)
    grid = drafter.grid(Batch(ids, torch.ones_like(ids).bool(), documents), 14, [0, 1])
    objective = Objective("ce_l1", weighting, "weights", {"ce_weight": 0.1, "l1_weight": 0.9}, own_overlap=True)
    features, blocks = read_teacher(target, grid, drafter.feature_layers, objective)
    hidden = drafter(grid, features)
    with torch.no_grad():
        logits = drafter.head(hidden)
        p = target.logits(ids, documents).softmax(-1)
        places = (grid.anchors[:, None] + torch.arange(5)).clamp(max=13)
        q, p = logits.softmax(-1), p[grid.rows[:, None], places]
        far = (q - p).abs().sum(-1)
        losses = 0.1 * F.cross_entropy(logits.flatten(0, 1), grid.labels.flatten(), reduction="none").view_as(far)
        losses += 0.9 * far
        losses += F.binary_cross_entropy_with_logits(hidden[..., -1], 1 - 0.5 * far, reduction="none")
        weights = Objective("ce", weighting, "weights")
        sums = unchunked_head(hidden, Blocks(grid.labels, grid.valid, grid.rows), drafter.head, weights)
    found = unchunked_head(hidden, blocks, drafter.head, objective, drafter.own_loss)
    torch.testing.assert_close(found.weight, sums.weight)
    if weighting == "decay":
        w = torch.exp(-torch.arange(5) / 7.0) * grid.valid
        torch.testing.assert_close(found.loss / found.denominator, (losses * w).sum() / w.sum(), rtol=1e-4, atol=1e-5)
    chunked = chunked_head(hidden, blocks, drafter.head, objective, drafter.own_loss, positions_per_chunk=15)
    torch.testing.assert_close(chunked.loss, found.loss, rtol=1e-4, atol=1e-4)
    assert found.own > 0 and not found.own.requires_grad
    without = unchunked_head(hidden, blocks, drafter.head, objective)
    assert found.loss > without.loss and without.own == 0


def test_the_cut_ends_drafts_before_the_first_unlikely_slot(target: Target) -> None:
    """All drafts with a threshold below every chance, none above; the same text either way, at any temperature."""
    prompts = [[5, 6, 7], [9, 8, 7, 6, 5], [3]]
    plain = Engine(target).generate(prompts, 24, ())
    lengths = {}
    for cut in (0.0, 1e-9, 0.5, 1 - 1e-7):
        drafter = spark(target, cut=cut)
        found = Engine(target, drafter).generate(prompts, 24, ())
        assert [g.tokens for g in found] == [g.tokens for g in plain]
        lengths[cut] = [[len(r.drafted) for r in g.rounds] for g in found]
    assert lengths[0.0] == lengths[1e-9] and not any(sum(rounds) for rounds in lengths[1 - 1e-7])
    assert 0 < sum(map(sum, lengths[0.5])) < sum(map(sum, lengths[0.0]))
    alone = [Engine(target, spark(target, cut=0.5)).generate([prompt], 24, ())[0] for prompt in prompts]
    assert [[len(r.drafted) for r in g.rounds] for g in alone] == lengths[0.5]


def test_where_every_draft_is_cut_the_draft_length_that_pays_is_0(target: Target) -> None:
    asked: list[int] = []

    class Spy(Adaptive):
        def choose(self, sequences: list[Sequence]) -> list[int]:
            asked.extend(found := super().choose(sequences))
            return found

    engine = Engine(target, spark(target, cut=1 - 1e-7))
    engine.lengths = Spy(Given(engine.draft_length), ChainHistory(engine.draft_length))
    engine.generate([[5, 6, 7]], 100, ())
    assert asked[0] > 0 and sum(map(bool, asked[10:])) < 5


@pytest.mark.parametrize("name", ["vanilla", "rnn"])
def test_cut_drafts_keep_the_targets_distribution(name: str, target: Target) -> None:
    drafter = spark(target, 4, cut=0.5, markov_head=name)
    assert check_distribution(target, drafter, [[5, 6, 7]], 4000, Sampling(1.0)).passed


def test_directory_is_deepspecs(target: Target, tmp_path: Path) -> None:
    drafter = spark(target, markov_head="gated", cut=0.25)
    drafter.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen3DSparkModel"] and "dflash_config" not in config
    assert config["target_layer_ids"] == list(drafter.feature_layers) and config["mask_token_id"] == 39
    assert config["block_size"] == 5 and config["markov_head_type"] == "gated" and config["markov_rank"] == 8
    assert config["enable_confidence_head"] and config["confidence_head_with_markov"]
    tensors = load_file(tmp_path / "model.safetensors")
    heads = {name: list(tensor.shape) for name, tensor in tensors.items() if "_head." in name}
    assert heads == {
        "markov_head.markov_w1.weight": [40, 8],
        "markov_head.markov_w2.weight": [40, 8],
        "markov_head.gate_proj.weight": [8, 40],
        "markov_head.gate_proj.bias": [8],
        "confidence_head.proj.weight": [1, 40],
        "confidence_head.proj.bias": [1],
    }
    again = load_drafter(tmp_path, target)
    assert isinstance(again, DSpark) and again.config == drafter.config
    for name, tensor in drafter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"markov_head_type": "lstm"}, "must be one of vanilla, gated, rnn"),
        ({"markov_rank": 0}, "markov_rank must be a positive number"),
        ({"sample_from_anchor": False}, "slot 0 drafts nothing"),
        ({"is_causal": True}, "causal"),
        ({"enable_confidence_head": None}, "lacks|does not describe|holds an unknown"),
    ],
)
def test_broken_directories_are_named(target: Target, tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    spark(target).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=complaint):
        load_drafter(tmp_path, target)


def test_a_start_must_be_what_the_run_says(target: Target, tmp_path: Path) -> None:
    spark(target).save_pretrained(tmp_path)
    made = {"init_from": str(tmp_path), "layers": 2, "block_size": 5, "markov_rank": 8}
    assert DSpark.create(DSparkSection.model_validate(made), target).max_draft == 5
    with pytest.raises(UserError, match=r"drafter\.markov_head is rnn"):
        DSpark.create(DSparkSection.model_validate(made | {"markov_head": "rnn"}), target)
