"""The mask is the difference of two renders, over the chat templates of the families that are drafted for."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo_target.tokenizer import train_tokenizer
from paradraft.errors import UserError
from paradraft.models.chat import ChatText
from paradraft.text.conversations import Conversation, parse_record
from paradraft.text.render import Rendered, content_of, render_conversation, render_prompt

from .templates import CHATML, CHATML_THINKING, GEMMA, LLAMA3, LOSSY, MISTRAL, NO_GENERATION_PROMPT, STOPS, UNSTABLE

STABLE = (CHATML, CHATML_THINKING, LLAMA3, GEMMA)
SYSTEM = {"role": "system", "content": "be brief"}
USER, ANSWER = {"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on"}
MORE, LAST = {"role": "user", "content": "12"}, {"role": "assistant", "content": "345"}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = train_tokenizer(["the cat sat on the mat", "12 345 think tool_call"] * 5)
    made.add_special_tokens({"additional_special_tokens": list(STOPS)}, replace_extra_special_tokens=False)
    return made


def chat_of(tokenizer: PreTrainedTokenizerFast, template: str | None, thinking: bool | None = None) -> ChatText:
    tokenizer.chat_template = template
    stop = next((stop for stop, templates in STOPS.items() if template in templates), None)
    stops = frozenset([tokenizer.convert_tokens_to_ids(stop)]) if stop else frozenset()
    return ChatText.of(tokenizer, stops, thinking)


def learned(
    tokenizer: PreTrainedTokenizerFast, template: str, *messages: Any, thinking: bool | None = None, **record: Any
) -> list[str]:
    """The text that is learned, example by example; ids must be those of the prompt, then what follows."""
    chat = chat_of(tokenizer, template, thinking)
    conversation = parse_record({"messages": list(messages), **record})
    rendered = render_conversation(chat, conversation)
    first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    asked = render_prompt(chat, list(messages[:first]), record.get("tools", ()))
    assert rendered[0].input_ids[: len(asked)].tolist() == asked and not any(rendered[0].loss_mask[: len(asked)])
    return [masked_text(tokenizer, example) for example in rendered]


def masked_text(tokenizer: PreTrainedTokenizerFast, example: Rendered) -> str:
    return str(tokenizer.decode([i for i, m in zip(example.input_ids, example.loss_mask, strict=True) if m]))


def test_one_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    for template, stop in zip(STABLE, ("<|im_end|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>"), strict=False):
        assert learned(tokenizer, template, USER, ANSWER) == ["sat on" + stop]
    assert learned(tokenizer, MISTRAL, USER, ANSWER) == [" sat on</s>"]
    assert learned(tokenizer, NO_GENERATION_PROMPT, USER, ANSWER) == ["sat on<|end|>"]


def test_several_turns_are_one_example_where_the_history_stays(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [USER, ANSWER, MORE, LAST]
    assert learned(tokenizer, CHATML, *messages) == ["sat on<|im_end|>345<|im_end|>"]
    assert learned(tokenizer, LLAMA3, *messages) == ["sat on<|eot_id|>345<|eot_id|>"]
    assert learned(tokenizer, GEMMA, *messages) == ["sat on<end_of_turn>345<end_of_turn>"]
    assert learned(tokenizer, MISTRAL, *messages) == [" sat on</s> 345</s>"]
    assert learned(tokenizer, NO_GENERATION_PROMPT, *messages) == ["sat on<|end|>345<|end|>"]
    # An empty thinking block in front of the first answer vanishes from its history: two examples.
    assert learned(tokenizer, CHATML_THINKING, *messages) == ["sat on<|im_end|>", "345<|im_end|>"]


def test_the_ids_are_those_of_the_whole_text(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = (USER, ANSWER, MORE, LAST)
    (rendered,) = render_conversation(chat_of(tokenizer, CHATML), Conversation(messages))
    assert tokenizer.decode(rendered.input_ids) == tokenizer.apply_chat_template(list(messages), tokenize=False)


def test_system_prompts(tokenizer: PreTrainedTokenizerFast) -> None:
    for template in (CHATML, CHATML_THINKING, LLAMA3, NO_GENERATION_PROMPT):
        assert learned(tokenizer, template, SYSTEM, USER, ANSWER) == learned(tokenizer, template, USER, ANSWER)
    for template, complaint in ((GEMMA, "System role not supported"), (MISTRAL, "Only user and assistant")):
        with pytest.raises(UserError, match=complaint):
            learned(tokenizer, template, SYSTEM, USER, ANSWER)


def test_an_empty_thinking_block_of_the_template_is_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    for thinking in (None, True, False):
        (example,) = render_conversation(chat_of(tokenizer, CHATML_THINKING, thinking), Conversation((USER, ANSWER)))
        assert "<think>\n\n</think>\n\n" in tokenizer.decode(example.input_ids)
        assert masked_text(tokenizer, example) == "sat on<|im_end|>"
        # These are the ids with thinking switched off, whichever way the block came in.
        asked = render_prompt(chat_of(tokenizer, CHATML_THINKING, False), [USER])
        assert example.input_ids[: len(asked)].tolist() == asked and example.loss_mask.argmax() == len(asked)


def test_thoughts_and_empty_blocks_that_the_target_wrote_are_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    for thoughts in ("mat", ""):
        written = {"role": "assistant", "content": f"<think>\n{thoughts}\n</think>\n\nsat"}
        expected = [f"<think>\n{thoughts}\n</think>\n\nsat<|im_end|>"]
        assert learned(tokenizer, CHATML_THINKING, USER, written) == expected
    apart = {"role": "assistant", "content": "sat", "reasoning_content": "mat"}
    assert learned(tokenizer, CHATML_THINKING, USER, apart) == ["<think>\nmat\n</think>\n\nsat<|im_end|>"]
    # Old thoughts are dropped from the history: every answer is an example behind the history it was given.
    both = learned(tokenizer, CHATML_THINKING, USER, apart, MORE, {**apart, "content": "345"})
    assert both == ["<think>\nmat\n</think>\n\nsat<|im_end|>", "<think>\nmat\n</think>\n\n345<|im_end|>"]
    with pytest.raises(UserError, match="template is unstable"):  # thinking was switched off, yet there are thoughts
        learned(tokenizer, CHATML_THINKING, USER, apart, thinking=False)
    with pytest.raises(UserError, match="does not render the reasoning_content of message 2"):
        learned(tokenizer, CHATML, USER, apart)


def test_tools(tokenizer: PreTrainedTokenizerFast) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"word": "cat"}}}
    asking = {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "mat"}
    found = {"role": "tool", "content": "12"}
    texts = learned(tokenizer, CHATML_THINKING, USER, asking, found, ANSWER, tools=[{"name": "look"}])
    call_text = '<tool_call>\n{"name": "look", "arguments": {"word": "cat"}}\n</tool_call><|im_end|>'
    assert texts == [f"<think>\nmat\n</think>\n\n{call_text}sat on<|im_end|>"]
    # Not the calls, not the second one, not the arguments; a name that stands in the text is no call.
    shown = "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.SHOWN }}{% endfor %}"
    first = shown.replace("or []", "and m.tool_calls[:1] or []")
    answer = {**asking, "reasoning_content": None}
    for template, message in (
        (CHATML, answer),
        (CHATML, {**answer, "content": "I look"}),
        (CHATML.replace("{{ m['content'] }}", shown.replace("SHOWN", "name")), answer),
        (CHATML.replace("{{ m['content'] }}", first.replace(".SHOWN", "")), {**answer, "tool_calls": [call, call]}),
    ):
        with pytest.raises(UserError, match="does not render the tool call of message 2"):
            learned(tokenizer, template, USER, message)


def test_decoding_ends_at_the_first_stop_token(tokenizer: PreTrainedTokenizerFast) -> None:
    answer = {"role": "assistant", "content": "sat<|im_end|>on"}
    assert learned(tokenizer, CHATML, USER, answer) == ["sat<|im_end|>"]


def test_an_answer_cut_by_a_length_limit_has_no_stop_token_to_learn(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = (USER, ANSWER, MORE, LAST)
    assert learned(tokenizer, CHATML, *messages, finish_reason="length") == ["sat on<|im_end|>345"]
    assert learned(tokenizer, MISTRAL, *messages, finish_reason="length") == [" sat on</s> 345"]


def test_templates_that_cannot_be_read_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="template is unstable: message 2 does not simply follow"):
        learned(tokenizer, UNSTABLE, USER, ANSWER)
    with pytest.raises(UserError, match="template is unstable: it does not render the text of message 2 as it stands"):
        learned(tokenizer, LOSSY, USER, ANSWER)
    with pytest.raises(UserError, match="does not render the whole text of message 2"):
        learned(tokenizer, CHATML.replace("m['content']", "m['content'].replace('on', 'off')"), USER, ANSWER)
    for template in (CHATML.replace("m['content']", "m['content'].split('</think>')[-1]"), CHATML_THINKING):
        with pytest.raises(UserError, match="does not render the whole text of message 2"):
            learned(tokenizer, template, USER, {"role": "assistant", "content": "12<think>mat</think>sat"})
    with pytest.raises(UserError, match="no system messages here"):
        learned(tokenizer, "{{ raise_exception('no system messages here') }}", USER, ANSWER)


def test_without_a_template_text_is_plain(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = chat_of(tokenizer, None)
    assert tokenizer.decode(render_prompt(chat, [USER])) == "the cat\n\n"
    (example,) = render_conversation(chat, Conversation((USER, ANSWER)))
    assert masked_text(tokenizer, example) == "sat on"
    (bare,) = render_conversation(chat, Conversation(text="the cat sat"))
    assert masked_text(tokenizer, bare) == "the cat sat" and all(bare.loss_mask)


PREFIXED = ["▁" + word for word in ("the", "cat", "sat", "on", "12", "345", "[INST]", "[/INST]")]


def sentencepiece_like(legacy: bool) -> PreTrainedTokenizerFast:
    """As in Llama 2: a blank in front of every text. Legacy: by the normaliser, also behind special tokens."""
    made = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<s>", "</s>"], initial_alphabet=["\n", *"abc"])
    made.train_from_iterator(PREFIXED * 5, trainer)
    if legacy:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("legacy", [True, False])
def test_no_blank_is_learned_that_the_tokenizer_alone_puts_in_front(legacy: bool) -> None:
    made = sentencepiece_like(legacy)
    turns = (USER, ANSWER, MORE, LAST)
    for template, after in ((MISTRAL, " "), (MISTRAL.replace("' ' + m", "'\\n' + m"), "\n")):
        made.chat_template = template
        chat = ChatText.of(made, frozenset([made.convert_tokens_to_ids("</s>")]))
        assert chat.adds_prefix
        (rendered,) = render_conversation(chat, Conversation(turns))  # the history is read as at decoding
        whole = chat.encode(chat.render(turns, (), answer_next=False))
        assert rendered.input_ids.tolist() == whole
        assert masked_text(made, rendered) == f"{after}sat on</s>{after}345</s>"
        (cut,) = render_conversation(chat, Conversation(turns, cut=True))
        assert cut.input_ids.tolist() == whole and masked_text(made, cut) == f"{after}sat on</s>{after}345"


def test_an_answer_whose_border_is_within_a_token_gets_no_blank_either() -> None:
    chat = ChatText.of(sentencepiece_like(legacy=True))
    before = "the cat "
    assert chat.encode(f"{before}sat")[: len(chat.encode(before))] != chat.encode(before)
    assert chat.decode(chat.encode_behind(before, chat.encode(before), "sat")) == "sat"


def test_byte_level_tokenizers_add_no_prefix(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatText.of(tokenizer)
    assert not chat.adds_prefix
    assert chat.encode_behind("the ca", chat.encode("the ca"), "t sat") == chat.encode("t sat")


def test_what_the_target_wrote_is_kept_so_that_the_template_gives_it_back(tokenizer: PreTrainedTokenizerFast) -> None:
    for template, written, content, same in (
        (CHATML, "sat", "sat", True),
        (MISTRAL, " sat", "sat", True),
        (MISTRAL, "sat", "sat", False),
        (NO_GENERATION_PROMPT, "<|assistant|>sat", "sat", True),
        (LLAMA3, "\n sat", "\n sat", False),
        (CHATML_THINKING, "<think>\nmat\n</think>\n\nsat", "<think>\nmat\n</think>\n\nsat", True),
        (CHATML_THINKING, "<think>\n\n</think>\n\nsat", "<think>\n\n</think>\n\nsat", True),
        (UNSTABLE, "sat", "sat", False),
    ):
        assert content_of(chat_of(tokenizer, template), [USER], (), written) == (content, same)
