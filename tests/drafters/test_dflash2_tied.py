"""DFlash 2 with a tied selector: the start as DFlash, what its slots and its selector read, and what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from paradraft.decoding import Engine
from paradraft.drafters import Batch, DFlash2Tied, kind_of, load_drafter
from paradraft.drafters.dflash2_tied import DFlash2TiedSection, TiedSelector
from paradraft.drafters.grid import before_anchors
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.training.distributed import copy_on_one_target
from tests.conftest import make_drafter, make_drafter_of, make_model

VALUES = {"layers": 2, "block_size": 6, "conv_group": 8, "selector_rank": 8, "selector_top_k": 4}


def test_the_selector_reads_the_targets_embedding(target: Target) -> None:
    selector = TiedSelector(target.embedding, 32, 8)
    torch.nn.init.normal_(selector.successor_projection.weight)
    tokens = torch.tensor([3, 9])
    rows = target.embedding.weight[tokens]
    wanted = rows / rows.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(selector.embed(tokens), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        selector.predecessors(tokens), F.linear(selector.embed(tokens), selector.predecessor_projection.weight)
    )
    torch.testing.assert_close(
        selector.successors(tokens), F.linear(selector.embed(tokens), selector.successor_projection.weight)
    )


def test_what_stands_before_an_anchor_is_of_its_own_document() -> None:
    context = torch.arange(1.0, 7)[None, :, None].expand(2, 6, 3)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, -1, -1]])
    found = before_anchors(context, torch.tensor([[0, 2, 3, 5], [0, 1, 2, 3]]), documents)
    assert found[..., 0].tolist() == [[0, 2, 0, 5], [0, 1, 2, 3]]


def test_packed_documents_are_as_if_alone(target: Target) -> None:
    drafter = make_drafter_of("dflash2_tied", target)
    assert isinstance(drafter, DFlash2Tied)
    ids = torch.randint(1, 39, (1, 20), generator=torch.Generator().manual_seed(3))
    documents = torch.tensor([[0] * 9 + [1] * 11])

    def hidden_of(ids: torch.Tensor, documents: torch.Tensor) -> dict[int, torch.Tensor]:
        grid = drafter.grid(Batch(ids, torch.ones_like(ids).bool(), documents), 20, [0])
        with torch.no_grad():
            found = drafter(grid, target.features(ids, documents, drafter.feature_layers))
        return {int(a): found[n] for n, a in enumerate(grid.anchors) if grid.valid[n].any()}

    packed, alone = hidden_of(ids, documents), hidden_of(ids[:, 9:], torch.zeros(1, 11, dtype=torch.long))
    assert 9 in packed  # the first token of the second document: nothing of its own stands before it
    for anchor, hidden in alone.items():
        torch.testing.assert_close(packed[9 + anchor], hidden, rtol=1e-4, atol=1e-4)


def test_it_starts_from_a_trained_dflash_drafter(target: Target, tmp_path: Path) -> None:
    plain = make_drafter(target)
    plain.save_pretrained(tmp_path)
    section = DFlash2TiedSection.model_validate(VALUES | {"init_from": str(tmp_path)})
    with pytest.raises(UserError, match=r"drafter\.sample_from_anchor is True, but .* has False; set it to that value"):
        DFlash2Tied.create(section, target)
    section = section.model_copy(update={"sample_from_anchor": False})
    started = DFlash2Tied.create(section, target).eval()
    drafts = [[g.rounds for g in Engine(target, one).generate([[5, 6, 7], [3]], 24, ())] for one in (plain, started)]
    assert drafts[0] == drafts[1]


def test_a_copy_for_fsdp2_has_no_embedding_of_its_own(target: Target) -> None:
    drafter = make_drafter_of("dflash2_tied", target)
    again = copy_on_one_target(drafter)
    assert again.target is target and again.candidate_selector.embedding[0] is target.embedding  # type: ignore[union-attr,index]
    assert again.candidate_selector.successor_projection is not drafter.candidate_selector.successor_projection  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])  # the second multiplies its embeddings by a number
def test_a_fresh_one_reads_the_newest_features(family: str) -> None:
    target = Target(make_model(family))
    fresh = DFlash2Tied.create(DFlash2TiedSection.model_validate(VALUES), target)
    size = float(target.embedding(torch.arange(40)).square().mean().sqrt())
    assert fresh.newest_scale.shape == (6, 32)
    torch.testing.assert_close(fresh.newest_scale.data, torch.full((6, 32), size))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_slot_that_is_given_to_another_text_forgets(rows: int) -> None:
    """The newest features of the text before would change the drafts of the next one."""
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of("dflash2_tied", target)
    alone = Engine(target, drafter, max_rows=rows).generate([[4, 8]], 12, ())
    after = Engine(target, drafter, max_rows=rows).generate([[5, 6, 7], [3, 1, 2], [9, 9], [4, 8]], 12, ())
    assert alone[0].rounds == after[-1].rounds


def test_its_directory(target: Target, tmp_path: Path) -> None:
    drafter = make_drafter_of("dflash2_tied", target)
    assert isinstance(drafter, DFlash2Tied)
    drafter.save_pretrained(tmp_path)
    assert kind_of(tmp_path) == "dflash2_tied"
    shapes = {name: list(tensor.shape) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    assert {name: shape for name, shape in shapes.items() if "selector" in name or "newest" in name} == {
        "newest_scale": [5, 32],
        "candidate_selector.hidden_projection.weight": [8, 32],
        "candidate_selector.predecessor_projection.weight": [8, 32],
        "candidate_selector.successor_projection.weight": [8, 32],
    }
    again = load_drafter(tmp_path, target)
    assert isinstance(again, DFlash2Tied) and again.config == drafter.config and again.max_draft == 5
    for name, tensor in drafter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    without = make_drafter_of("dflash2_tied", target, newest=False, sample_from_anchor=False)
    without.save_pretrained(tmp_path)
    again = load_drafter(tmp_path, target)
    assert isinstance(again, DFlash2Tied) and again.config == without.config and again.max_draft == 5
    assert set(again.state_dict()) == set(without.state_dict()) and not again.config.newest
