"""A target and its drafters by the names that the command line takes."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from ..drafters import Drafter, load_drafter
from ..models import Target
from ..models.names import drafter_directory


def load_pair(
    target: str,
    drafters: Sequence[str],
    dtype: str,
    trust_remote_code: bool,
    thinking: bool | None = None,
    day: datetime.date | None = None,
) -> tuple[Target, dict[str, Drafter]]:
    """The target and its drafters; the drafters' directories are looked up before anything large is loaded."""
    directories = {name: drafter_directory(name) for name in drafters}
    loaded = Target.load(target, dtype, None, trust_remote_code, thinking, day)
    return loaded, {name: load_drafter(directory, loaded) for name, directory in directories.items()}
