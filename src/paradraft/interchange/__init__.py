"""Drafters in and out of the layouts that others publish. A new kind's layout is one file and one entry here."""

from __future__ import annotations

from . import dflash2_layout, dflash_layout, dspark_layout, eagle3_layout, language_model_layout
from .layout import Layout

LAYOUTS: dict[str, Layout] = {
    "dflash": dflash_layout.LAYOUT,
    "dflash2": dflash2_layout.LAYOUT,
    "dspark": dspark_layout.LAYOUT,
    "eagle3": eagle3_layout.LAYOUT,
    "pard": language_model_layout.PARD,
    "pard2": language_model_layout.PARD2,
    "vanilla": language_model_layout.VANILLA,
}
