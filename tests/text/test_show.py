"""A rendered conversation as a person reads it: tokens with mask and kind, escaped on the page."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

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


def test_the_page_escapes_what_the_data_holds() -> None:
    page = html_page("a & b", [("record", "<1>")], [[Token(7, "<script>\n", True, False)]])
    assert "<script>" not in page and "&lt;script&gt;⏎<rt>7</rt>" in page and "&lt;1&gt;" in page
    assert 'class="learned "' in page and "http" not in page
