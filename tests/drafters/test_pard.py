"""PARD and PARD-2: what attends to what, what is laid out, both modes, and directories of ours and of others."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paradraft.drafters import Batch, Pard, Pard2, load_drafter
from paradraft.drafters.attention import dense_mask
from paradraft.drafters.pard import lay_out, new_token, pard_predicate
from paradraft.drafters.pard2 import default_layers, layer_id, published_layers
from paradraft.errors import UserError
from paradraft.models import Target
from tests.conftest import make_drafter_of, make_model

# METHODS: 5 tokens, 3 offsets, nothing dropped; rows are queries (offset * 5 + position), offset 0 the text.
PUBLISHED_MASK = [
    "100000000000000",
    "110000000000000",
    "111000000000000",
    "111100000000000",
    "111110000000000",
    "000001000000000",
    "100000100000000",
    "110000010000000",
    "111000001000000",
    "111100000100000",
    "000010000010000",
    "000001000001000",
    "100000100000100",
    "110000010000010",
    "111000001000001",
]


def whole(ids: Tensor) -> Batch:
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))


def test_mask_equals_the_published_example() -> None:
    """Offset i at position p belongs to the draft behind p - i; drafts that would start before the text are padding."""
    places = [(offset, p) for offset in (1, 2) for p in range(5) if p >= offset]
    anchor = torch.tensor([[p - offset for offset, p in places]])
    step = torch.tensor([[offset + 1 for offset, _ in places]])
    predicate = pard_predicate(torch.zeros(1, 5, dtype=torch.long), anchor, step)
    mask = dense_mask(predicate, 1, 5 + len(places), 5 + len(places), torch.device("cpu"))[0, 0].int()
    slots = [*range(5), *(offset * 5 + p for offset, p in places)]
    wanted = [[int(PUBLISHED_MASK[q][k]) for k in slots] for q in slots]
    assert mask.tolist() == wanted


def test_only_what_is_kept_is_laid_out() -> None:
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of("pard", target)
    assert isinstance(drafter, Pard)
    drafter.cod_ratio, drafter.cod_least = 0.5, 0.0
    ids = torch.randint(1, 39, (2, 60))
    grid = drafter.grid(whole(ids), anchors=1, seeds=[3, 4])
    layout = lay_out(grid)
    assert int(layout.present.sum()) == int(grid.valid[:, 1:].sum()) < 0.3 * grid.valid[:, 1:].numel()
    for row in range(2):
        placed = {
            (a, s) for a, s, p in zip(layout.anchor[row], layout.step[row], layout.present[row], strict=True) if p
        }
        for n in (grid.rows == row).nonzero().flatten().tolist():
            for k in range(1, drafter.max_draft):
                pair = (int(grid.anchors[n]), k + 1)
                assert (pair in {(int(a), int(s)) for a, s in placed}) == bool(grid.valid[n, k])


@pytest.mark.parametrize("kind", ["pard", "pard2"])
def test_dropping_steps_changes_nothing_for_those_that_stay(kind: str) -> None:
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of(kind, target)
    assert isinstance(drafter, Pard)
    ids = torch.randint(1, 39, (2, 30))
    batch = whole(ids)
    features = target.features(ids, batch.document_ids, drafter.feature_layers)
    results = []
    for ratio in (1.0, 0.5):
        drafter.cod_ratio, drafter.cod_least = ratio, 0.0
        grid = drafter.grid(batch, anchors=30, seeds=[1, 2])
        with torch.no_grad():
            results.append((grid.valid, drafter(grid, features)))
    (_, everything), (kept, some) = results
    assert kept.sum() < results[0][0].sum()
    torch.testing.assert_close(some[kept], everything[kept], rtol=1e-4, atol=1e-5)
    assert not some[~kept].any() or kept[:, 0].logical_not().any()


def test_the_first_token_is_kept_with_a_zero_feature() -> None:
    """Shifting it away is a published engine's bug: embeddings stand where they stood, features come one later."""
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of("pard2", target)
    assert isinstance(drafter, Pard2)
    seen: list[Tensor] = []
    run = drafter.run

    def spy(inputs: Tensor, *rest: Any) -> Tensor:
        seen.append(inputs)
        return run(inputs, *rest)

    drafter.run = spy  # type: ignore[method-assign]
    ids = torch.randint(1, 39, (1, 6))
    features = target.features(ids, torch.zeros_like(ids), drafter.feature_layers)
    state = drafter.start(1, 40)
    drafter.observe(state, [0], features, ids, torch.tensor([6]))
    drafter.propose(state, [0], ids[:, 2], 3, lambda logits: (logits.argmax(-1), None))
    embedded, projected = drafter.embedding(ids), drafter.scale * drafter.target_proj(features)
    assert seen[0].shape[1] == 6
    torch.testing.assert_close(seen[0][:, 0], embedded[:, 0])
    torch.testing.assert_close(seen[0][:, 1:], embedded[:, 1:] + projected[:, :-1])
    mask = drafter.embedding(torch.tensor([[drafter.mask_token]]))
    torch.testing.assert_close(seen[1][:, 0], drafter.embedding(ids[:, 2]) + projected[:, -1])
    torch.testing.assert_close(seen[1][:, 1:], (mask + projected[:, -1:]).expand(-1, 2, -1))  # the anchor's row


def test_feature_dropout_is_for_whole_sequences() -> None:
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of("pard2", target)
    assert isinstance(drafter, Pard2)
    drafter.feature_dropout = 0.25
    ids = torch.randint(1, 39, (1, 12)).expand(400, 12)
    grid = drafter.grid(whole(ids), anchors=12, seeds=range(400))
    assert grid.keep_features is not None
    dropped = ~grid.keep_features
    assert 60 < int(dropped.sum()) < 140
    features = target.features(ids, grid.batch.document_ids, drafter.feature_layers)
    previous = drafter.previous_features(grid, features)
    assert not previous[dropped].any() and not previous[:, 0].any()
    torch.testing.assert_close(previous[grid.keep_features][:, 1:], features[grid.keep_features][:, :-1])
    drafter.set_mode("independent")
    with torch.no_grad():
        without = drafter(grid, features[..., :0])
        drafter.set_mode("dependent")
        with_features = drafter(grid, features)
    same = torch.isclose(without, with_features, atol=1e-5).flatten(1).all(1)
    assert torch.equal(same, dropped[grid.rows] | (grid.anchors == 0))  # the first token sees no feature anyway


@pytest.mark.parametrize("kind", ["pard", "pard2", "vanilla"])
def test_directory_round_trip(kind: str, tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of(kind, target)
    drafter.save_pretrained(tmp_path)
    again = load_drafter(tmp_path, target)
    assert again.kind == kind and again.max_draft == drafter.max_draft and again.modes == drafter.modes
    assert again.feature_layers == drafter.feature_layers
    for name, tensor in drafter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    if isinstance(drafter, Pard) and isinstance(again, Pard):
        assert (again.mask_token, again.cod_ratio, again.cod_least) == (39, 1.0, drafter.cod_least)


def test_pard2_directory_is_what_engines_read(tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    make_drafter_of("pard2", target).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["pard_token"] == 39 and config["pard2"] is True and config["spd_type"] == "pard2"
    assert config["pard2_target_layers"] == [-1, -4] and config["pard2_target_dim"] == 64
    assert "mask_token_id" not in config and config["pard2_proj_bias"] is False
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["model.safetensors"]  # engines load all they find


def test_published_projection_is_read_and_nothing_else_is_unpickled(tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of("pard2", target)
    assert isinstance(drafter, Pard2)
    drafter.save_pretrained(tmp_path)
    (tmp_path / "pard2" / "target_proj.safetensors").unlink()
    with pytest.raises(UserError, match=r"no pard2/target_proj.safetensors and no warp_model.bin"):
        load_drafter(tmp_path, target)
    torch.save({"target_proj.weight": drafter.target_proj.weight.detach()}, tmp_path / "warp_model.bin")
    again = load_drafter(tmp_path, target)
    assert isinstance(again, Pard2) and torch.equal(again.target_proj.weight, drafter.target_proj.weight)
    torch.save({"target_proj.weight": Path("x")}, tmp_path / "warp_model.bin")  # any other object
    with pytest.raises(UserError, match="cannot be read"):
        load_drafter(tmp_path, target)


def test_other_hidden_sizes_fall_back_to_independent_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_drafter_of("pard2", Target(make_model("qwen3"))).save_pretrained(tmp_path)
    wider = Target(make_model("qwen3", hidden_size=48))
    with caplog.at_level(logging.WARNING):
        drafter = load_drafter(tmp_path, wider)
    assert "independent mode" in caplog.text
    assert drafter.modes == ("independent",) and drafter.feature_layers == ()
    with pytest.raises(UserError, match="works in mode independent"):
        drafter.set_mode("dependent")


def test_published_layer_numbers() -> None:
    assert default_layers(36) == (32, 28, 20, 12)
    assert published_layers((36, 28, 20, 12), 36) == [-1, -8, -16, -24]
    assert published_layers((32, 28, 20, 12), 36) == [-4, -8, -16, -24]
    assert [layer_id(i, 36) for i in (-1, -8, -16, -24)] == [36, 28, 20, 12]
    assert default_layers(10) == (7, 4, 1)
    with pytest.raises(UserError, match="cannot name"):
        published_layers((35,), 36)


def test_published_layers_are_transformers_hidden_states() -> None:
    target = Target(make_model("qwen3"))
    ids = torch.randint(1, 39, (1, 7))
    states = target.model(input_ids=ids, output_hidden_states=True).hidden_states
    published = [-1, -3, -4]
    features = target.features(ids, torch.zeros_like(ids), [layer_id(i, 4) for i in published])
    torch.testing.assert_close(features, torch.cat([states[i] for i in published], dim=-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["pard", "pard2", "vanilla"])
def test_documents_of_a_row_do_not_mix(kind: str) -> None:
    """Two texts in one row give what each gives alone: positions, masks, and the zero feature at each start."""
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of(kind, target)
    ids = torch.randint(1, 39, (1, 20))
    documents = (torch.arange(20) >= 9).long()[None]
    together = Batch(ids, torch.ones_like(ids, dtype=torch.bool), documents)
    grid = drafter.grid(together, 20, [0])
    with torch.no_grad():
        hidden = drafter(grid, target.features(ids, documents, drafter.feature_layers))
        for start, end in ((0, 9), (9, 20)):
            alone = whole(ids[:, start:end])
            one = drafter.grid(alone, 20, [0])
            wanted = drafter(one, target.features(alone.input_ids, alone.document_ids, drafter.feature_layers))
            inside = (grid.anchors >= start) & (grid.anchors < end)
            torch.testing.assert_close(hidden[inside][one.valid], wanted[one.valid], rtol=1e-4, atol=1e-5)


def test_one_token_a_round_needs_no_masks() -> None:
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of("pard", target, draft_length=1)
    batch = whole(torch.randint(1, 39, (2, 9)))
    grid = drafter.grid(batch, 9, [0, 1])
    assert drafter(grid, torch.empty(2, 9, 0)).shape == (16, 1, 24)


def test_a_new_mask_starts_as_the_average_of_the_others() -> None:
    """Also in a model of shapes alone, which `train --plan` makes."""
    model = make_model("qwen3")
    rows = model.get_input_embeddings().weight.detach().clone()
    assert new_token(model) == 40
    torch.testing.assert_close(model.get_input_embeddings().weight[40], rows.mean(0))
    assert torch.equal(model.get_input_embeddings().weight[:40], rows)
    assert model.get_output_embeddings().weight.shape[0] == 41
    with torch.device("meta"):
        assert new_token(make_model("qwen3")) == 40
