"""How figures are written for people, in the terminal, in reports and in error messages."""

from __future__ import annotations


def number(value: float | None, digits: int = 2) -> str:
    """With so many digits behind the point; "-" for what was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def size(count: float) -> str:
    """Bytes in decimal units: 2.5 MB is 2,500,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float) -> str:
    """In the unit that leaves two or three digits: seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
