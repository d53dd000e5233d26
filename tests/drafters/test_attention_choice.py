"""Which mask a GPU gets; no GPU is needed to ask."""

from __future__ import annotations

import pytest
import torch

from paradraft.drafters import attention


def test_a_gpu_gets_flex_attention_where_the_mask_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of the public target's recipe stays dense; a sequence of Qwen3-4B's has most of its mask hidden."""
    monkeypatch.setattr(attention, "dense_mask", lambda *arguments: "dense")
    monkeypatch.setattr(attention, "_compiled_block_mask", lambda: lambda *arguments, **more: "flex")

    def chosen(rows: int, context: int, anchors: int, block: int, device: str) -> object:
        queries = anchors * block
        return attention.attention_mask(lambda *at: at[0], rows, queries, context + queries, torch.device(device))

    assert chosen(32, 640, 64, 8, "cuda") == "dense"
    assert chosen(1, 3072, 512, 16, "cuda") == "flex"
    assert chosen(1, 3072, 512, 16, "cpu") == "dense"
