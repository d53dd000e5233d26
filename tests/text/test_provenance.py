"""Which target it was: by every tensor, by revision, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from paradraft.errors import UserError
from paradraft.text.provenance import TargetIdentity, fingerprint


def test_a_fingerprint_is_of_every_tensor(tmp_path: Path) -> None:
    """A fine-tune of the layers between embedding and head is another target."""
    made = []
    for value in (0.0, 0.0, 1.0):
        layer = {"a": torch.zeros(600_000), "m": torch.full((1000,), value), "z": torch.zeros(600_000)}
        save_file(layer, tmp_path / "model.safetensors")
        made.append(fingerprint(tmp_path))
    assert made[0] == made[1] != made[2]
    for content in (b"version https://git-lfs.github.com/spec/v1", b"", b"\x02\x00\x00\x00\x00\x00\x00\x00ab"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="is no safetensors file"):
            fingerprint(tmp_path)


def test_targets_are_told_apart_by_weights_revision_and_name() -> None:
    held = TargetIdentity("a/b", "r1", "f1")
    assert held.same(TargetIdentity("elsewhere", None, "f1")) and not held.same(TargetIdentity("a/b", "r1", "f2"))
    unknown = TargetIdentity("a/b", "r1")
    assert unknown.same(held) and unknown.same(TargetIdentity("a/b")) and not unknown.same(TargetIdentity("a/b", "r2"))
    assert (held.label, unknown.label, TargetIdentity("a/b").label) == ("a/b (f1)", "a/b (r1)", "a/b")
