"""The text side of a target: its template with a date and a thinking flag, and its stop tokens; it never changes."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from demo_target.tokenizer import train_tokenizer
from paradraft.drafters import Vanilla
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.models.chat import ChatText, load_chat, stop_tokens_of
from tests.conftest import make_model
from tests.text.templates import CHATML, CHATML_THINKING

USER = {"role": "user", "content": "the cat"}
# As Llama 3.2's writes it.
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}"
    "{{ date_string + '\n' }}"
) + CHATML


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the cat sat on the mat", "think 12 Feb 2024"] * 5)


def test_without_weights_it_is_that_of_the_whole_target(target_directory: Path) -> None:
    target, (chat, context) = Target.load(str(target_directory)), load_chat(str(target_directory))
    assert chat.stop_tokens == target.chat.stop_tokens == target.stop_tokens != frozenset()
    assert context == target.context_length == 128 and chat.template_hash == target.chat.template_hash


def test_a_target_without_a_tokenizer_has_no_text_side(tmp_path: Path) -> None:
    make_model("qwen3").save_pretrained(tmp_path)
    target = Target.load(str(tmp_path))
    assert target.tokenizer is None
    for ask in (lambda: target.chat, lambda: load_chat(str(tmp_path))):
        with pytest.raises(UserError, match="has no tokenizer; put its tokenizer files beside its weights"):
            ask()
    with pytest.raises(UserError, match=r"target nowhere is no directory here, not in .* offline mode"):
        load_chat("nowhere")


def test_stop_tokens_are_those_of_generation_and_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    class Generation:
        eos_token_id = (3, 5)

    assert stop_tokens_of(Generation, tokenizer) == {3, 5, tokenizer.eos_token_id}
    assert stop_tokens_of(None, None) == frozenset()


def test_the_thinking_flag_needs_a_template_that_knows_it(tokenizer: PreTrainedTokenizerFast) -> None:
    def chat_of(template: str, thinking: bool | None) -> ChatText:
        tokenizer.chat_template = template
        return ChatText.of(tokenizer, thinking=thinking)

    off, on = (chat_of(CHATML_THINKING, thinking).render([USER], (), True) for thinking in (False, True))
    assert len(off) > len(on)
    assert chat_of(CHATML, None).thinking is None
    # Neither a word of the text, nor a field of a message, nor what the template sets itself can be switched.
    for more in ("", "thinking", "{% if messages[0].thinking %}{% endif %}", "{% set thinking = 1 %}{{ thinking }}"):
        with pytest.raises(UserError, match="has no thinking switch"):
            chat_of(more + CHATML, False)
    setting = "{% if thinking is not defined %}{% set thinking = 1 %}{% endif %}{% generation %}{% endgeneration %}"
    assert chat_of(setting + CHATML, False).thinking_switch() == "thinking"


def test_a_date_takes_the_place_of_today(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = DATED
    today, dated = ChatText.of(tokenizer), ChatText.of(tokenizer, date=date(2024, 2, 9))
    assert today.writes_today and today.render([USER], (), True).startswith(date.today().strftime("%d"))
    assert not dated.writes_today and dated.render([USER], (), True).startswith("09 Feb 2024\n")
    assert today.template_hash != dated.template_hash and tokenizer.chat_template == DATED
    tokenizer.chat_template = CHATML
    with pytest.raises(UserError, match="writes no date; leave the date unset"):
        ChatText.of(tokenizer, date=date(2024, 2, 9))
    tokenizer.chat_template = "{% set form = '%d' %}{{ strftime_now(form) }}" + CHATML
    with pytest.raises(UserError, match="in a way that cannot be pinned"):
        ChatText.of(tokenizer, date=date(2024, 2, 9))


def test_a_draft_model_is_saved_with_the_template_as_it_was_loaded(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """A run's date is for its own prompts: frozen into the drafter's tokenizer it would be served for ever."""
    tokenizer.chat_template = DATED
    model = make_model("qwen3", vocab_size=len(tokenizer) + 8)
    target = Target(model, tokenizer, date=date(2024, 2, 9))
    Vanilla(make_model("llama", vocab_size=len(tokenizer) + 8), target, 3).save_pretrained(tmp_path)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path).chat_template == DATED


def test_a_tokenizer_may_have_a_template_for_tools(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = {"default": CHATML, "tool_use": "{{ tools | length }} tools " + CHATML}
    chat = ChatText.of(tokenizer)
    assert not chat.render([USER], (), True).startswith("1 tools") and chat.template == CHATML
    assert chat.render([USER], [{"name": "look"}], True).startswith("1 tools")
    tokenizer.chat_template = {"default": CHATML}
    assert ChatText.of(tokenizer).template_hash != chat.template_hash
    tokenizer.chat_template = {"rag": CHATML}
    with pytest.raises(UserError, match="chat templates rag and none named default"):
        ChatText.of(tokenizer)


def test_the_hash_is_that_of_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = CHATML
    assert ChatText.of(tokenizer).template_hash == "9a6ac2cf411f"
    tokenizer.chat_template = None
    assert ChatText.of(tokenizer).template_hash == "none"
    assert ChatText.of(tokenizer).render([USER, USER], (), True) == "the cat\n\nthe cat\n\n"
    with pytest.raises(UserError, match="half of a surrogate pair"):
        ChatText.of(tokenizer).encode("\ud800")
