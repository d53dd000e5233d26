"""Published layouts: there and back again without a bit changed, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paradraft.drafters import Pard2, load_drafter
from paradraft.errors import UserError
from paradraft.interchange.formats import export_published, import_published
from paradraft.models import Target
from tests.conftest import make_drafter_of, make_model


@pytest.mark.parametrize("kind", ["dflash", "pard", "pard2", "vanilla"])
def test_there_and_back_again(kind: str, tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    drafter = make_drafter_of(kind, target)
    drafter.save_pretrained(tmp_path / "ours")
    assert export_published(tmp_path / "ours", tmp_path / "published") == kind
    assert (tmp_path / "published" / "warp_model.bin").is_file() == (kind == "pard2")
    assert not (tmp_path / "published" / "pard2").exists()
    assert import_published(tmp_path / "published", tmp_path / "again") == kind
    again = load_drafter(tmp_path / "again", target)
    assert again.feature_layers == drafter.feature_layers and again.max_draft == drafter.max_draft
    for name, tensor in drafter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    if isinstance(again, Pard2):
        assert not (tmp_path / "again" / "warp_model.bin").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "ours", "published"]


def test_what_cannot_be_imported_leaves_nothing_behind(tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    make_drafter_of("pard2", target).save_pretrained(tmp_path / "ours")
    export_published(tmp_path / "ours", tmp_path / "published")
    with pytest.raises(UserError, match="exists already"):
        import_published(tmp_path / "published", tmp_path / "ours")
    (tmp_path / "published" / "warp_model.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="projection cannot be read"):
        import_published(tmp_path / "published", tmp_path / "out")
    (tmp_path / "published" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\*\.safetensors"):
        import_published(tmp_path / "published", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "published"]
