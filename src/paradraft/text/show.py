"""A rendered conversation as a person reads it: every token with its id, what is learned, what is special."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from .render import Rendered

VISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍"}  # shown in place of, or in front of, what cannot be seen

SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Token:
    """special: one of the tokenizer's added tokens (turn markers, thinking and tool tags)."""

    id: int
    text: str
    learned: bool
    special: bool


def tokens_of(tokenizer: PreTrainedTokenizerBase, example: Rendered) -> list[Token]:
    """Each token by itself; one that is a part of a character shows as the replacement character."""
    added = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    return [
        Token(token, str(tokenizer.decode([token])), learned, token in added)
        for token, learned in zip(example.input_ids.tolist(), example.loss_mask.tolist(), strict=True)
    ]


def visible(text: str) -> str:
    return "".join(VISIBLE.get(character, character) for character in text)


def terminal_text(tokens: Sequence[Token]) -> Text:
    """Learned tokens on green, special ones in bold magenta, each id dim behind its token."""
    shown = Text()
    for token in tokens:
        style = " ".join(["bold magenta"] * token.special + ["on dark_green"] * token.learned)
        shown.append(visible(token.text), style)
        shown.append(f"{str(token.id).translate(SUBSCRIPT)} ", "dim")  # not to be read as digits of the text
        if token.text.endswith("\n"):
            shown.append("\n")
    return shown


PAGE = Environment(autoescape=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/2.1 ui-monospace, Menlo, Consolas, monospace; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #1c2024; background: #fff; }
h1, h2, p, th, td { font-family: system-ui, sans-serif; line-height: 1.4; text-align: left; }
h1 { font-size: 1.2rem; } h2 { font-size: 1rem; margin-top: 2rem; } th { padding-right: 1rem; font-weight: 500; }
ruby { margin: 0 1px; border-radius: 3px; background: #f0f1f3; } rt { font-size: 9px; color: #60646c; }
ruby.learned { background: #b4e5c0; } ruby.special { color: #a3248f; font-weight: 700; }
@media (prefers-color-scheme: dark) {
  body { color: #edeef0; background: #111113; } ruby { background: #212225; } rt { color: #b0b4ba; }
  ruby.learned { background: #1d5b36; } ruby.special { color: #f49bd8; } }
</style></head><body>
<h1>{{ title }}</h1>
<table>{% for name, value in facts %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
<p><ruby class="learned">learned</ruby> the target wrote it &nbsp; <ruby>context</ruby> it is read, not learned &nbsp;
<ruby class="special">special</ruby> an added token of the tokenizer; small: token ids</p>
{% for tokens in examples %}{% if examples | length > 1 %}<h2>Example {{ loop.index }}</h2>{% endif %}
<div>{% for token in tokens %}<ruby class="{{ 'learned' if token.learned }} {{ 'special' if token.special }}">
{{- visible(token.text) or "∅" }}<rt>{{ token.id }}</rt></ruby>{% if token.text.endswith("\n") %}<br>{% endif %}
{%- endfor %}</div>
{% endfor %}</body></html>
"""
)


def html_page(title: str, facts: Sequence[tuple[str, str]], examples: Sequence[Sequence[Token]]) -> str:
    """One page that opens offline."""
    return PAGE.render(title=title, facts=facts, examples=examples, visible=visible)
