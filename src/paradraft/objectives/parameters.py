"""The numbers that a weighting or a token loss may be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """A number above 0 (with `zero`: 0 or more) and at most `most`; `meaning` describes it in the documentation."""

    default: float
    meaning: str
    most: float = float("inf")
    zero: bool = False

    def check(self, name: str, value: float) -> None:
        """Raises ValueError outside the range, and for what is no number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be a number, not {value!r}")
        low = value >= 0 if self.zero else value > 0
        if not (low and value <= self.most):
            least = "0 or more" if self.zero else "more than 0"
            most = "" if self.most == float("inf") else f" and at most {self.most:g}"
            raise ValueError(f"{name} must be {least}{most}, not {value}")


def complete(known: Mapping[str, Parameter], given: Mapping[str, float]) -> dict[str, float]:
    """All known parameters, missing ones with their defaults. Raises ValueError for an unknown name or a bad value."""
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{name!r} is not one of {', '.join(known) or 'its parameters: it has none'}")
        known[name].check(name, value)
    return {name: given.get(name, parameter.default) for name, parameter in known.items()}
