"""`data inspect`: what a person sees of a conversation, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paradraft.commands.inspect import inspect
from paradraft.errors import UserError


def test_inspect(
    target_directory: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "sub" / "x.html"
    inspect(str(conversations), str(target_directory), number=2, html=page)
    shown = capsys.readouterr().out
    assert "number 2 of 24" in " ".join(shown.split()) and "template" in shown and "<|im_end|>" in shown
    assert "learned" in page.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="sub cannot be written"):
        inspect(str(conversations), str(target_directory), html=page.parent)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(UserError, match="holds 24 conversations; there is no number 25"):
        inspect(str(conversations), str(target_directory), number=25)
    with pytest.raises(UserError, match=r"line 1: the loss mask is zero everywhere"):
        inspect(str(conversations), str(target_directory), max_length=8)
    with pytest.raises(UserError, match="no thinking switch"):
        inspect(str(conversations), str(target_directory), thinking=False)
    with pytest.raises(UserError, match=r"target nowhere is no directory here, not in .* offline mode"):
        inspect(str(conversations), "nowhere")
    loops = tmp_path / "loops.jsonl"
    loops.write_text(json.dumps({"prompt": "a", "response": "the cat " * 12}))
    capsys.readouterr()
    inspect(str(loops), str(target_directory))
    said = " ".join(capsys.readouterr().out.split())
    assert "note: training leaves this conversation out: an answer repeats itself" in said
    broken = tmp_path / "broken.jsonl"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning": "c"}]
    broken.write_text(json.dumps({"messages": messages}))
    with pytest.raises(UserError, match="line 1: the chat template does not render the reasoning_content"):
        inspect(str(broken), str(target_directory))
