"""Times include the work of the GPU that was asked, whichever of several that is."""

from __future__ import annotations

import pytest
import torch

from paradraft.decoding.timing import Clock, seconds_of


def test_the_device_itself_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(device))
    second, cpu = torch.device("cuda", 1), torch.device("cpu")
    assert Clock(second).lap() >= 0 and waited == [second]
    assert seconds_of(lambda: waited.append("call"), second) >= 0 and waited[1:] == [second, "call", second]
    assert Clock(cpu).lap() >= 0 and seconds_of(lambda: None, cpu) >= 0 and len(waited) == 4
