"""Memory that a long-lived process would gather without holding anything in it."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable

PERIOD = 20.0  # seconds
SHAPES = 64  # more than one round needs: a few widths, each with the shapes of a layer


def limit_kernel_caches() -> None:
    """Let oneDNN and PyTorch's part of it keep kernels for SHAPES shapes each, unless the environment says otherwise.

    They make a kernel for every shape, and prompts have a shape for every length: with the usual 1,024 of both, the
    memory of a server grew for hours. To be called before the first product of a process; later it does nothing.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(SHAPES))


def trimmer() -> Callable[[], None]:
    """A function that gives free memory back to the system, at most every PERIOD seconds.

    Prompts of many lengths leave holes of many sizes, and glibc keeps the pages in them: the process would look as if
    it grew. Other C libraries have no such call; there the function does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    last = time.monotonic()

    def give_back() -> None:
        nonlocal last
        if trim is not None and time.monotonic() - last >= PERIOD:
            trim(0)
            last = time.monotonic()

    return give_back
