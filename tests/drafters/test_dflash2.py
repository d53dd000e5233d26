"""DFlash 2: the worked numbers of its convolution and its selector, the start as DFlash, and parity along a path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from paradraft.decoding import Engine, Sampling
from paradraft.drafters import Batch, DFlash, DFlash2, load_drafter
from paradraft.drafters.dflash2 import IN, BlockConvolution, CandidateSelector, DFlash2Section
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.errors import UserError
from paradraft.evaluation.lossless import check_distribution
from paradraft.models import Target
from tests.conftest import make_drafter, make_drafter_of, make_model


def drafter_of(target: Target, draft_length: int = 5, kind: str = "dflash2", **own: Any) -> DFlash2:
    drafter = make_drafter_of(kind, target, draft_length, **own)
    assert isinstance(drafter, DFlash2)
    return drafter


def test_the_worked_convolution() -> None:
    """Width 4, groups of 2, two taps; slots [1, 2, 3, 4], [0, 1, 0, -1], [2, 0, -2, 1]."""
    convolution = BlockConvolution(4, 2, 2)
    x = torch.tensor([[[1.0, 2, 3, 4], [0, 1, 0, -1], [2, 0, -2, 1]]])
    torch.testing.assert_close(convolution(x, torch.zeros(1, 3, 2, 2, 2), IN, 3), x)  # the identity at first
    with torch.no_grad():
        convolution.base_kernel[IN] = torch.tensor([[1.0, 1, 1, 1], [0.5, 0, -0.5, 0.25]])
        convolution.kernel_projection.weight.zero_()
        convolution.kernel_projection.weight[0] = torch.tensor([0.1, 0, 0, 0])  # side in, tap 0, group 0
        convolution.kernel_projection.weight[2] = torch.tensor([0, 0, 0, -0.1])  # tap 1, group 0
        convolution.kernel_projection.weight[3] = torch.tensor([0, 0.2, 0, 0])  # tap 1, group 1
    wanted = torch.tensor([[[1.1, 2.2, 3, 4], [0.6, 1.2, -0.9, 0.8], [2.4, -0.1, -2, 0.75]]])
    torch.testing.assert_close(convolution(x, convolution.deltas(x), IN, 3), wanted)
    two = torch.cat((x, x), dim=1)  # the next block begins anew
    found = convolution(two, convolution.deltas(two), IN, 3)
    torch.testing.assert_close(found, torch.cat((wanted, wanted), dim=1))


def test_the_worked_path() -> None:
    """Two steps of two candidates each from token 0: scores 3.0, 3.9, then .25, -1.05; independent argmax: 1, 0."""
    selector = CandidateSelector(5, 2, 2)
    with torch.no_grad():
        selector.predecessor_codebook.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 1], [0.5, 0]]))
        selector.successor_codebook.copy_(torch.tensor([[0.5, 1], [1, -1], [2, 0], [0, 2], [1, 1]]))
        selector.hidden_projection.weight.copy_(torch.eye(2))
    hidden, token, path = torch.tensor([[1.0, 1], [0.5, -1]]), torch.tensor(0), []
    unary = torch.tensor([[0.1, 2, 1.9, -1, 0], [1, 0.9, -2, 0.95, 0.2]])
    for step, wanted in enumerate(({1: 3.0, 2: 3.9}, {0: 0.25, 3: -1.05})):
        top = unary[step].topk(2)
        scores = selector.scores(top.values, top.indices, selector.edges(token, hidden[step]))
        assert dict(zip(top.indices.tolist(), scores.tolist(), strict=True)) == pytest.approx(wanted)
        token = top.indices[scores.argmax()]
        path.append(int(token))
    assert path == [2, 0] and unary.argmax(-1).tolist() == [1, 0]


def test_a_fresh_drafter_is_dflash(target: Target) -> None:
    plain = make_drafter(target)
    values = {"layers": 2, "block_size": 6, "conv_group": 8, "selector_rank": 8, "selector_top_k": 4}
    fresh = DFlash2.create(DFlash2Section.model_validate(values), target).eval()
    assert set(fresh.load_state_dict(plain.state_dict(), strict=False).unexpected_keys) == set()
    prompts = [[5, 6, 7], [9, 8, 7, 6, 5], [3]]
    drafts = [[g.rounds for g in Engine(target, one).generate(prompts, 24, ())] for one in (plain, fresh)]
    assert drafts[0] == drafts[1]
    ids = torch.randint(1, 39, (1, 14), generator=torch.Generator().manual_seed(0))
    grid = plain.grid(Batch(ids, torch.ones_like(ids).bool(), torch.zeros_like(ids)), 14, [0])
    features = target.features(ids, torch.zeros_like(ids), plain.feature_layers)
    with torch.no_grad():
        torch.testing.assert_close(fresh(grid, features)[..., :32], plain(grid, features))


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("kind", "own"),
    [("dflash2", {}), *(("dflash2_tied", own) for own in ({}, {"newest": False}, {"sample_from_anchor": False}))],
)
def test_training_scores_equal_drafting_scores_along_the_drafted_path(
    kind: str, own: dict[str, Any], rows: int, family: str
) -> None:
    """What was drafted is put into the text, then a training grid over it must give the same scores."""
    target = Target(make_model(family))
    drafter = drafter_of(target, kind=kind, **own)
    ids = torch.randint(1, 39, (rows, 17), generator=torch.Generator().manual_seed(5))
    anchors = torch.tensor([6 + 2 * row for row in range(rows)])
    row, seen = torch.arange(rows), list[Tensor]()

    def sampler(scores: Tensor) -> tuple[Tensor, None]:
        seen.append(scores)
        return scores.argmax(-1), None

    target.prepare_decoding()
    drafter.prepare_decoding()
    with torch.inference_mode():
        state, cache = drafter.start(rows, 40), target.new_slots(rows, 40)
        done = torch.zeros_like(anchors)
        for until in (anchors - 3, anchors - 1, anchors):  # a prompt, then what two rounds committed
            counts = until - done
            places = (done[:, None] + torch.arange(int(counts.max()))).clamp(max=ids.shape[1] - 1)
            tokens = ids.gather(1, places)
            output = target.forward(tokens, cache, drafter.feature_layers)
            cache.commit(counts)
            drafter.observe(state, range(rows), output.features, tokens, counts)
            done = until
            if bool((until < anchors).all()):  # a draft in between, which must leave no trace
                drafter.propose(state, range(rows), ids[row, until], 3, lambda logits: (logits.argmax(-1), None))
        proposal = drafter.propose(state, range(rows), ids[row, anchors], 5, sampler)
        places = anchors[:, None] + torch.arange(1, 6)
        text = ids.scatter(1, places, proposal.tokens)
        grid = drafter.grid(Batch(text, torch.ones_like(text).bool(), torch.zeros_like(text)), 17, range(rows))
        hidden = drafter(grid, target.features(text, torch.zeros_like(text), drafter.feature_layers))
        mine = [int(((grid.rows == r) & (grid.anchors == anchors[r])).nonzero()[0, 0]) for r in range(rows)]
        logits, edges = drafter.head(hidden[mine]), hidden[mine][..., 32:]
        candidates = drafter.candidates(logits)
        scores = drafter.candidate_selector.scores(logits.gather(-1, candidates), candidates, edges)
    torch.testing.assert_close(torch.cat(seen, dim=1), scores, rtol=1e-4, atol=1e-4)
    assert torch.equal(candidates.gather(-1, scores.argmax(-1, keepdim=True))[..., 0], proposal.tokens)


@pytest.mark.parametrize("kind", ["dflash2", "dflash2_tied"])
def test_the_selectors_loss(kind: str, target: Target) -> None:
    """Over the candidates; a label beyond them takes the weakest one's place, and gradient reaches the logits."""
    drafter = drafter_of(target, kind=kind, selector_weight=0.5)
    logits = torch.zeros(2, 40)
    logits[:, :4] = torch.tensor([4.0, 3, 2, 1])
    logits.requires_grad_()
    hidden = torch.cat((torch.zeros(2, 32), torch.ones(2, 8)), dim=1)
    found = drafter.own_loss(hidden, logits, torch.tensor([1, 30]), None)
    assert found is not None
    bias = drafter.candidate_selector.successors(torch.arange(40)).sum(-1)
    for n, ids in enumerate(([0, 1, 2, 3], [0, 1, 2, 30])):
        scores = logits[n, ids] + bias[ids]
        wanted = scores.logsumexp(-1) - scores[1 if n == 0 else 3]
        torch.testing.assert_close(found[n], 0.5 * wanted)
    found.sum().backward()
    assert logits.grad is not None and logits.grad[1, 30] < 0 and logits.grad[1, 3] == 0


@pytest.mark.parametrize("kind", ["dflash2", "dflash2_tied"])
def test_only_candidates_are_drafted_and_the_distribution_is_the_targets(kind: str, target: Target) -> None:
    drafter = drafter_of(target, 4, kind)
    state = drafter.start(1, 40)
    ids = torch.randint(1, 40, (1, 9))
    features = target.features(ids, torch.zeros_like(ids), drafter.feature_layers)
    drafter.observe(state, [0], features[:, :8], ids[:, :8], torch.tensor([8]))
    proposal = drafter.propose(state, [0], ids[:, 8], 3, lambda s: (s.argmax(-1), s.softmax(-1)))
    assert proposal.probabilities is not None and proposal.probabilities.shape == (1, 3, 40)
    assert ((proposal.probabilities > 0).sum(-1) == 4).all()
    torch.testing.assert_close(proposal.probabilities.sum(-1), torch.ones(1, 3))
    assert torch.equal(proposal.probabilities.argmax(-1), proposal.tokens)
    assert check_distribution(target, drafter, [[5, 6, 7]], 4000, Sampling(1.0)).passed


def test_directory_is_what_engines_read(target: Target, tmp_path: Path) -> None:
    drafter = drafter_of(target)
    drafter.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["DFlash2DraftModel"] and config["is_causal"] is False
    assert config["dflash_config"] == {
        **{"mask_token_id": 39, "target_layer_ids": list(drafter.feature_layers), "block_size": 6},
        **{"conv_kernel_size": 2, "conv_group_size": 8, "selector_rank": 8, "selector_top_k": 4},
    }
    shapes = {name: list(tensor.shape) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    added = {name: shape for name, shape in shapes.items() if "conv" in name or "selector" in name}
    layer = {f"{name}.base_kernel": [2, 2, 32] for name in ("attention_conv", "mlp_conv")}
    layer |= {f"{name}.kernel_projection.weight": [16, 32] for name in ("attention_conv", "mlp_conv")}
    assert added == {f"layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()} | {
        "candidate_selector.predecessor_codebook": [40, 8],
        "candidate_selector.successor_codebook": [40, 8],
        "candidate_selector.hidden_projection.weight": [8, 32],
    }
    again = load_drafter(tmp_path, target)
    assert isinstance(again, DFlash2) and again.config == drafter.config
    for name, tensor in drafter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    (tmp_path / "config.json").write_text(json.dumps(config | {"is_causal": True}))
    with pytest.raises(UserError, match="blocks are causal"):
        load_drafter(tmp_path, target)


def test_a_trained_dflash_drafter_is_a_start(target: Target, tmp_path: Path) -> None:
    plain = make_drafter(target)
    plain.restrict(DraftVocabulary(torch.arange(0, 40, 2), 40))
    plain.save_pretrained(tmp_path / "plain")
    values = {"layers": 2, "block_size": 6, "conv_group": 8, "selector_rank": 8, "selector_top_k": 4}
    values["init_from"] = str(tmp_path / "plain")
    started = DFlash2.create(DFlash2Section.model_validate(values), target).eval()
    assert started.vocabulary is not None and len(started.vocabulary) == 20
    prompts = [[5, 6, 7], [3]]
    drafts = [[g.rounds for g in Engine(target, one).generate(prompts, 16, ())] for one in (plain, started)]
    assert drafts[0] == drafts[1]
    with pytest.raises(UserError, match=r"drafter\.block_size is 8"):
        DFlash2.create(DFlash2Section.model_validate(values | {"block_size": 8}), target)
    started.save_pretrained(tmp_path / "started")
    again = DFlash2.create(DFlash2Section.model_validate(values | {"init_from": str(tmp_path / "started")}), target)
    assert again.config == started.config
    make_drafter_of("dflash", target, causal=True).save_pretrained(tmp_path / "causal")
    with pytest.raises(UserError, match="causal blocks"):
        DFlash2.create(DFlash2Section.model_validate(values | {"init_from": str(tmp_path / "causal")}), target)


def test_sizes_that_do_not_fit_are_named(target: Target) -> None:
    for values, complaint in (({"conv_group": 5}, "does not divide"), ({"selector_top_k": 41}, "more than the 40")):
        with pytest.raises(UserError, match=complaint):
            DFlash2.create(DFlash2Section.model_validate({"layers": 1, "conv_group": 8, **values}), target)
    assert issubclass(DFlash2, DFlash)
