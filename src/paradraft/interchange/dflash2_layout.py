"""DFlash 2's directory as its authors, vLLM and SGLang have it: DFlash's, and four keys more in `dflash_config`.

Read in z-lab/dflash (`dflash/model.py`); no engine was run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..drafters.dflash2 import INNER
from ..errors import UserError
from . import dflash_layout, gguf, transformers
from .dflash_layout import TRITON, WHOLE_HEAD, read_block, whole_only
from .drafter_files import only, with_settings
from .layout import Layout, Use

KEYS = tuple(INNER.values())


def native_config(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """config.json for engines, from one of ours."""
    found = dflash_layout.native_config(config, where)
    inner = found["dflash_config"] | only(config["dflash_config"], KEYS, where)
    return {**found, "architectures": ["DFlash2DraftModel"], "dflash_config": inner, **with_settings(config)}


def understood(config: Mapping[str, Any], where: Path, assume: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """A foreign configuration as ours, and what the user should know; what it leaves open is refused."""
    inner = dict(config.get("dflash_config") or {})
    own = {key: inner.pop(key) for key in KEYS if key in inner}
    found, notes = dflash_layout.understood({**config, "dflash_config": inner}, where, assume)
    if found["is_causal"]:
        raise UserError(f"drafter {where}: its blocks are causal, which paradraft's DFlash 2 does not have")
    own_inner = found["dflash_config"] | own
    return native_config({**found, "dflash_config": own_inner, **with_settings(config)}, where), notes


WRITE = whole_only(
    lambda source: native_config(source.config, source.directory),
    "engines give DFlash 2 the target's whole head; a reduced draft vocabulary works in paradraft only",
)
LAYOUT = Layout(
    lambda found: read_block(found, understood),
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
