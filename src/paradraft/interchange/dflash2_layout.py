"""DFlash 2's directory as its authors, vLLM and SGLang have it: DFlash's, and four keys more in `dflash_config`.

Read in z-lab/dflash (`dflash/model.py`); no engine was run.
"""

from __future__ import annotations

from functools import partial

from ..drafters import DFlash2
from ..drafters.dflash2 import INNER
from . import dflash_layout, gguf, transformers
from .dflash_layout import TRITON, WHOLE_HEAD, reader, understood, whole_only
from .layout import Layout, Use

WRITE = whole_only(
    "engines give DFlash 2 the target's whole head; a reduced draft vocabulary works in paradraft only", DFlash2
)
LAYOUT = Layout(
    reader(partial(understood, drafter=DFlash2, more=tuple(INNER.values()))),
    write={"vllm": WRITE, "sglang": WRITE, "published": WRITE, "gguf": gguf.UNWRITTEN},
    engines={
        "vllm": Use(reasons=(WHOLE_HEAD,), remarks=(TRITON,)),
        "sglang": Use(reasons=(WHOLE_HEAD,)),
        "llama.cpp": "paradraft does not write DFlash 2 for it",
        "transformers": transformers.NO_ASSISTANT,
    },
    vllm={"method": "dflash"},
    sglang="DFLASH",
    mask=dflash_layout.mask,
)
