"""Reduced draft vocabularies: chosen from the text, lossless in decoding, exact on disk."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from paradraft.decoding import Engine, Sampling
from paradraft.drafters import DRAFTERS, Drafter, load_drafter
from paradraft.drafters.pard import PardSection
from paradraft.drafters.vanilla import VanillaSection
from paradraft.drafters.vocabulary import DraftVocabulary, most_frequent
from paradraft.errors import UserError
from paradraft.evaluation.lossless import check_distribution
from paradraft.models import Target
from tests.conftest import BOUND, KINDS, drafter_values, make_model

IDS = torch.tensor([0, 2, 3, 5, 8, 13, 21, 34, 39])
SHARED = [(kind, share) for kind in KINDS for share in (False, True) if not (kind in BOUND and share)]


def created(kind: str, target: Target, **fields: Any) -> Drafter:
    values = drafter_values(kind, layers=2, block_size=5, draft_length=4, mask_token=1, **fields)
    section = DRAFTERS[kind].section.model_validate(values)
    torch.manual_seed(3)
    drafter = DRAFTERS[kind].create(section, target)
    for name, parameter in drafter.named_parameters():
        if "target_proj" in name or "markov_w2" in name or "successor" in name:  # which start at zero
            torch.nn.init.normal_(parameter)
    return drafter.eval()


def restricted(kind: str, target: Target, **fields: Any) -> Drafter:
    drafter = created(kind, target, **fields)
    drafter.restrict(DraftVocabulary(IDS, target.vocabulary_size))
    return drafter


def test_most_frequent_tokens_and_their_coverage() -> None:
    texts = [torch.tensor([4, 4, 4, 7, 7, 1]), torch.tensor([7, 9])]
    chosen = most_frequent(texts, 3, 10, always=[0])
    assert chosen.ids.tolist() == [0, 4, 7]
    assert chosen.coverage == pytest.approx(6 / 8)
    with pytest.raises(UserError, match="vocabulary is 10"):
        most_frequent(texts, 10, 10, always=[])


@pytest.mark.parametrize(("kind", "share"), SHARED)
def test_logits_are_rows_of_the_whole_head(kind: str, share: bool, target: Target) -> None:
    whole, reduced = (make(kind, target, share_embedding=share) for make in (created, restricted))
    # The hidden states of some hold what depends on the token before, too.
    width = target.hidden_size + {"dspark": 9, "dflash2": 8}.get(kind, 0)
    hidden = torch.randn(3, 4, width, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(reduced.head(hidden), whole.head(hidden)[..., IDS])


@pytest.mark.parametrize(("kind", "share"), SHARED)
def test_greedy_decoding_is_the_targets_own_and_drafts_stay_inside(kind: str, share: bool, target: Target) -> None:
    drafter = restricted(kind, target, share_embedding=share)
    prompts = [[5, 6, 7], [9, 8, 7, 6, 5, 4], [1, 2]]
    plain = Engine(target).generate(prompts, 24)
    drafted = Engine(target, drafter).generate(prompts, 24)
    assert [g.tokens for g in drafted] == [g.tokens for g in plain]
    proposed = {token for g in drafted for r in g.rounds for token in r.drafted}
    assert proposed and proposed <= set(IDS.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_decoding_keeps_the_targets_distribution(kind: str, target: Target) -> None:
    drafter = restricted(kind, target)
    result = check_distribution(target, drafter, [[5, 6, 7]], 4000, Sampling(1.0))
    assert result.passed


@pytest.mark.parametrize(("kind", "share"), SHARED)
def test_saved_and_read_back(kind: str, share: bool, target: Target, tmp_path: Path) -> None:
    drafter = restricted(kind, target, share_embedding=share)
    drafter.save_pretrained(tmp_path)
    warned = LogRecords()
    logging.getLogger("transformers").addHandler(warned)
    try:
        again = load_drafter(tmp_path, target)
    finally:
        logging.getLogger("transformers").removeHandler(warned)
    assert not warned.messages  # not of weights that are missing because the target has them
    assert again.vocabulary is not None and torch.equal(again.vocabulary.ids, IDS)
    prompts = [[5, 6, 7], [9, 8, 7, 6, 5, 4]]
    drafts = [[g.rounds for g in Engine(target, d).generate(prompts, 16)] for d in (drafter, again)]
    assert drafts[0] == drafts[1]
    if share:
        names = "".join(name for f in tmp_path.rglob("*.safetensors") for name in tensor_names(f))
        assert "embed_tokens" not in names and "lm_head" not in names


class LogRecords(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kind", ["pard", "pard2", "vanilla"])
def test_a_start_from_a_drafter_without_an_embedding_has_that_of_the_target(
    kind: str, share: bool, target: Target, tmp_path: Path
) -> None:
    first: Any = restricted("pard", target, share_embedding=True)
    torch.nn.init.normal_(first.mask_embedding)
    first.save_pretrained(tmp_path)
    values = {"init_from": str(tmp_path), "share_embedding": share, "draft_length": 3}
    again: Any = DRAFTERS[kind].create(DRAFTERS[kind].section.model_validate(values), target)
    mask = [] if kind == "vanilla" else [first.mask_token]
    tokens = torch.tensor([5, 17, *mask])
    assert torch.equal(again.embed(tokens), first.embed(tokens))
    hidden = torch.randn(2, target.hidden_size)
    torch.testing.assert_close(again.head(hidden)[..., IDS], first.head(hidden))


def test_a_mask_that_was_not_copied_is_named(target: Target, tmp_path: Path) -> None:
    restricted("pard", target, share_embedding=True).save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "paradraft")
    with pytest.raises(UserError, match="lacks its mask's embedding; copy the whole directory"):
        load_drafter(tmp_path, target)


def tensor_names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_damaged_maps_are_refused() -> None:
    good = DraftVocabulary(IDS, 40).tensors()
    assert torch.equal(good["d2t"] + torch.arange(len(IDS)), IDS)
    assert torch.equal(good["t2d"].nonzero().flatten(), IDS)
    for name, wrong in (("d2t", good["d2t"] - 1), ("d2t", good["d2t"].flip(0)), ("t2d", ~good["t2d"])):
        with pytest.raises(UserError, match="d2t"):
            DraftVocabulary.from_tensors({**good, name: wrong}, 40, "drafter x")


def test_a_pruned_target_keeps_its_first_and_its_last_layers(target: Target) -> None:
    section = VanillaSection(layers=3, init_from="target", share_embedding=True)
    drafter = DRAFTERS["vanilla"].create(section, target)
    pruned: PreTrainedModel = drafter.model  # type: ignore[assignment]
    for mine, theirs in zip(pruned.base_model.layers, (0, 1, 3), strict=True):
        for a, b in zip(mine.parameters(), target.layers[theirs].parameters(), strict=True):
            assert torch.equal(a, b)
    whole = DRAFTERS["vanilla"].create(section.model_copy(update={"layers": 4}), target).eval()
    (generation,) = Engine(target, whole).generate([[5, 6, 7]], 16)
    assert all(r.accepted == len(r.drafted) for r in generation.rounds)  # all layers: the target itself
    with pytest.raises(UserError, match="at most 4 layers"):
        DRAFTERS["vanilla"].create(section.model_copy(update={"layers": 5}), target)


def test_the_shared_embedding_is_never_trained(target: Target) -> None:
    drafter = restricted("pard", target, share_embedding=True)
    assert not target.embedding.weight.requires_grad
    trained = {name for name, p in drafter.named_parameters() if p.requires_grad}
    assert "mask_embedding" in trained and not any("embed_tokens" in n or "lm_head" in n for n in trained)
    with pytest.raises(UserError, match="width of 32"):
        section = PardSection(layers=1, hidden_size=16, mask_token=1, share_embedding=True)
        DRAFTERS["pard"].create(section, target)


@pytest.mark.parametrize("kind", [kind for kind in BOUND if kind != "eagle3"])  # which has a head of its own
def test_the_heads_rows_keep_the_targets_type(kind: str, tmp_path: Path) -> None:
    """A run goes on in float32, as it began, for a target in another type."""
    target = Target(make_model("qwen3").bfloat16())
    fresh = restricted(kind, target)
    fresh.save_pretrained(tmp_path)
    again = DRAFTERS[kind].from_pretrained(tmp_path, target, torch.float32)
    for drafter in (fresh, again, again.to(torch.float32)):
        assert drafter.head_rows is not None and drafter.head_rows.weight.dtype == torch.bfloat16
    state = again.start(1, 20)
    again.propose(state, [0], torch.tensor([5]), 2, lambda logits: (logits.argmax(-1), None))
