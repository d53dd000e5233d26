"""`data inspect`: what a person sees of a conversation, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from paradraft.commands.inspect import inspect
from paradraft.errors import UserError
from paradraft.text.render import Rendered
from paradraft.text.show import SUBSCRIPT, Token, html_page, terminal_text, tokens_of


def test_tokens_carry_mask_and_kind(target_directory: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(target_directory)
    ids = tokenizer("the cat<|im_end|>\n").input_ids
    tokens = tokens_of(tokenizer, Rendered(ids, [False] * (len(ids) - 2) + [True, False]))
    assert "".join(token.text for token in tokens) == "the cat<|im_end|>\n"
    (special,) = [token for token in tokens if token.special]
    assert special == Token(tokenizer.eos_token_id, "<|im_end|>", True, True)
    text = terminal_text(tokens)
    assert text.plain.endswith(f"⏎{str(ids[-1]).translate(SUBSCRIPT)} \n") and "bold magenta on dark_green" in [
        str(s.style) for s in text.spans
    ]
    assert terminal_text(tokens, ids=False).plain == "the cat<|im_end|>⏎\n"


def test_the_page_escapes_what_the_data_holds() -> None:
    page = html_page("a & b", [("record", "<1>")], [[Token(7, "<script>\n", True, False)]])
    assert "<script>" not in page and "&lt;script&gt;⏎<rt>7</rt>" in page and "&lt;1&gt;" in page
    assert 'class="learned "' in page and "http" not in page


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
    with pytest.raises(UserError, match="tokenizer of target nowhere cannot be loaded"):
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
