"""Memory that a long-lived process has freed and the C library keeps."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

PERIOD = 20.0  # seconds


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
