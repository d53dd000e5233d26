"""Freed memory goes back to the system, and kernels of shapes that are gone do not stay."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paradraft.serving import memory

ROOT = Path(__file__).parents[2]
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")


def resident() -> float:
    """MB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def holes() -> list[bytearray]:
    """Every other one of many blocks: what is freed between them cannot go back by itself."""
    blocks = [bytearray(b"x" * 100_000) for _ in range(1000)]  # below the size that is mapped, not taken from the heap
    return blocks[::2]


@GLIBC
def test_free_memory_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PERIOD", 0.0)
    give_back = memory.trimmer()
    kept = holes()
    before = resident()
    give_back()
    assert before - resident() > 20, len(kept)  # of 50


@GLIBC
def test_it_waits_for_its_period() -> None:
    give_back = memory.trimmer()
    kept = holes()
    before = resident()
    give_back()
    assert abs(before - resident()) < 0.5, len(kept)


GROWTH = """
import sys
from paradraft.serving.memory import limit_kernel_caches
if sys.argv[1] == "limited":
    limit_kernel_caches()
import torch
from tests.serving.test_memory import resident
layer = torch.ops.mkldnn._linear_pointwise.default
weight = torch.ops.mkldnn._reorder_linear_weight(torch.rand(256, 256), 8)
def run(widths):
    for width in widths:
        layer(torch.rand(width, 256), weight, None, "none", [], "")
run(range(2, 100))
before = resident()
run(range(100, 900))
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_kernels_of_many_shapes_do_not_stay() -> None:
    """Beside a process that keeps them."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_CACHE_CAPACITY")}
    environment |= {"OMP_NUM_THREADS": "1"}
    found = {}
    for way in ("limited", "usual"):
        command = [sys.executable, "-c", GROWTH, way]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        found[way] = float(done.stdout)
    assert found["limited"] < found["usual"] / 2, found


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # so that what follows is undone
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    memory.limit_kernel_caches()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(memory.SHAPES)
