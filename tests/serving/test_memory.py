"""Freed memory goes back to the system."""

import sys
from pathlib import Path

import pytest

from paradraft.serving import memory


def resident() -> int:
    """Pages of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def holes() -> list[bytearray]:
    """Every other one of many blocks: what is freed between them cannot go back by itself."""
    blocks = [bytearray(b"x" * 100_000) for _ in range(1000)]  # below the size that is mapped, not taken from the heap
    return blocks[::2]


@pytest.mark.skipif(sys.platform != "linux", reason="malloc_trim is glibc's")
def test_free_memory_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PERIOD", 0.0)
    give_back = memory.trimmer()
    kept = holes()
    before = resident()
    give_back()
    assert before - resident() > 5000, len(kept)  # of 50 MB, with pages of 4 KiB


@pytest.mark.skipif(sys.platform != "linux", reason="malloc_trim is glibc's")
def test_it_waits_for_its_period() -> None:
    give_back = memory.trimmer()
    kept = holes()
    before = resident()
    give_back()
    assert abs(before - resident()) < 100, len(kept)
