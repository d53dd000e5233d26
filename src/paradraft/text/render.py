"""Conversations to token ids and a loss mask, by the target's own chat template.

What the target wrote is found as the *difference of two renders*: the history with the generation prompt against the
history with the answer. A third render, of a marker in place of the answer, tells the answer's own text from what the
template puts in front of it (an empty thinking block, say), which nobody wrote and nothing learns. Nothing is guessed
from template names; a template that cannot be read this way is an error. Training, regeneration, evaluation and
generation share these functions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta
from jinja2.ext import loopcontrols
from transformers import PreTrainedTokenizerBase

from ..errors import UserError, first_line
from .conversations import Conversation, Message

MARKER = "\ue000answer\ue001"  # private use: no template or data set has reason to hold it
DATE_CALL = re.compile(r"""\bstrftime_now\s*\(\s*(?P<quote>['"])(?P<format>[^'"\\]*)(?P=quote)\s*\)""")
DATE_NOTE = "the chat template writes today's date into every prompt; --date keeps one"
THINKING_SWITCHES = ("enable_thinking", "thinking")  # what templates call it, the usual name first


@dataclass(frozen=True)
class Rendered:
    """Token ids and, for each, whether the target wrote it; document_ids where several texts share a row."""

    input_ids: list[int]
    loss_mask: list[bool]
    document_ids: list[int] | None = None


@dataclass(frozen=True)
class Answer:
    """One answer taken apart: the prompt as rendered, what the target wrote, template text that follows.

    `inserted`: text that the template put in front of the answer; it belongs to the prompt.
    """

    asked: str
    inserted: str
    written: str
    rest: str


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Short hash of the chat template, "none" where there is none; it travels with data and results."""
    template = tokenizer.chat_template
    return hashlib.sha256(str(template).encode()).hexdigest()[:12] if template else "none"


def check_thinking(tokenizer: PreTrainedTokenizerBase, thinking: bool | None) -> None:
    """A thinking flag is for templates that know one; None leaves the choice to the template."""
    if thinking is not None:
        thinking_switch(tokenizer)


def thinking_switch(tokenizer: PreTrainedTokenizerBase) -> str:
    for name in THINKING_SWITCHES:
        if name in template_variables(tokenizer):
            return name
    raise UserError("the target's chat template has no thinking switch; leave the thinking flag unset")


def writes_the_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """The template asks for the time of day (Llama 3.2's does): what it renders tomorrow is another text."""
    return re.search(r"\bstrftime_now\s*\(", template_text(tokenizer)) is not None


def pin_date(tokenizer: PreTrainedTokenizerBase, day: date | None) -> None:
    """Have the chat template write `day` in place of today, on this tokenizer alone; None leaves it to the clock.

    The day becomes a part of the template and so of its hash: texts of two days are known to differ.
    """
    if day is None:
        return
    if not writes_the_date(tokenizer):
        raise UserError("the target's chat template writes no date; leave the date unset")

    def pinned(template: str) -> str:
        return DATE_CALL.sub(lambda call: json.dumps(day.strftime(call["format"])), template)

    found = tokenizer.chat_template
    tokenizer.chat_template = (
        pinned(found) if isinstance(found, str) else {name: pinned(text) for name, text in found.items()}
    )
    if writes_the_date(tokenizer):
        raise UserError("the target's chat template writes the date in a way that cannot be pinned; leave it unset")


def template_variables(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    return variables_of(template_text(tokenizer))


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """All of a tokenizer's templates, if there are several."""
    found = tokenizer.chat_template or ""
    return found if isinstance(found, str) else "".join(found.values())


@cache
def variables_of(template: str) -> frozenset[str]:
    """What a template reads from outside: a mere word or an attribute of that name is no switch."""
    plain = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)  # tags that Transformers adds to Jinja
    try:
        return frozenset(meta.find_undeclared_variables(Environment(extensions=[loopcontrols]).parse(plain)))
    except TemplateSyntaxError as error:
        raise UserError(f"the target's chat template cannot be read: {error}") from None


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    thinking: bool | None = None,
    tools: Sequence[Any] = (),
) -> list[int]:
    """Ids the target answers: the history with the generation prompt, or bare text without a chat template."""
    return encode(tokenizer, _text(tokenizer, messages, tools, thinking, answer_next=True))


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Conversation,
    stop_tokens: frozenset[int],
    thinking: bool | None = None,
) -> list[Rendered]:
    """Ids and mask of a conversation; an answer ends with its stop token, template text behind that is not learned.

    Usually one example. Where the template renders earlier turns differently once the conversation goes on (as
    those do that drop old thoughts), every answer becomes an example of its own, behind the history it was given.
    Raises UserError for a template that is unstable, or that loses a part of an answer.
    """
    if conversation.text is not None:
        return [render_text(tokenizer, conversation.text)]
    messages, examples, done = conversation.messages, list[Rendered](), ""
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for i in answers:
        answer = take_apart(tokenizer, messages[: i + 1], conversation.tools, thinking)
        prompt_ids = encode(tokenizer, answer.asked + answer.inserted)
        before = Rendered([], [])
        if examples and answer.asked.startswith(done):
            more = encode(tokenizer, (answer.asked + answer.inserted)[len(done) :])
            if examples[-1].input_ids + more == prompt_ids:  # else the history would not be read as at decoding
                before, prompt_ids = examples.pop(), more
        ended = not (conversation.cut and i == answers[-1])
        answer_ids, written = answer_tokens(tokenizer, answer, stop_tokens, ended)
        mask = [False] * len(prompt_ids) + [n < written for n in range(len(answer_ids))]
        examples.append(Rendered(before.input_ids + prompt_ids + answer_ids, before.loss_mask + mask))
        done = answer.asked + answer.inserted + answer.written + answer.rest
    return examples


def answer_tokens(
    tokenizer: PreTrainedTokenizerBase, answer: Answer, stop_tokens: frozenset[int], ended: bool
) -> tuple[list[int], int]:
    """Ids of an answer with the template text behind it, and how many of them the target wrote.

    Its stop token counts where the target ended the answer itself. Decoding stops at the first one.
    """
    if ended:
        ids = encode(tokenizer, answer.written + answer.rest)
        stop = next((n for n, token in enumerate(ids, 1) if token in stop_tokens), None)
        if stop is not None:
            return ids, stop
    written = encode(tokenizer, answer.written)
    return written + encode(tokenizer, answer.rest), len(written)


def render_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Rendered:
    """Bare text, all of it learned but a start token that the tokenizer puts in front."""
    ids: list[int] = tokenizer(text)["input_ids"]
    return Rendered(ids, [n > 0 or token != tokenizer.bos_token_id for n, token in enumerate(ids)])


def take_apart(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Any], thinking: bool | None
) -> Answer:
    """The last message of `messages`, an answer, against the history with the generation prompt."""
    *history, message = messages
    place = f"message {len(messages)}"
    asked = _text(tokenizer, history, tools, thinking, answer_next=True)
    answered = _text(tokenizer, messages, tools, thinking, answer_next=False)
    marker = {"role": "assistant", "content": MARKER}
    marked = _text(tokenizer, [*history, marker], tools, thinking, answer_next=False)
    if not answered.startswith(asked):
        raise UserError(
            f"the chat template is unstable: {place} does not simply follow the rendered history, so what the target "
            "wrote cannot be told from the template's own text"
        )
    if marked.count(MARKER) != 1 or not marked.startswith(asked):
        raise UserError(f"the chat template is unstable: it does not render the text of {place} as it stands")
    before, _, rest = marked[len(asked) :].partition(MARKER)
    own = answered[len(asked) :]
    check_nothing_lost(message, own, place)
    check_calls(lambda changed: _text(tokenizer, [*history, changed], tools, thinking, False), message, answered, place)
    # Blanks in front of an answer are a part of its first token, not of the template.
    inserted = before.rstrip(" ") if before.strip() else ""
    if not own.startswith(inserted) or message["content"].startswith(inserted):
        inserted = ""  # the answer's own: real thoughts, or an empty block that the target did write
    own = own[len(inserted) :]
    rest = rest if rest and own.endswith(rest) else ""
    return Answer(asked, inserted, own[: len(own) - len(rest)], rest)


def content_of(
    tokenizer: PreTrainedTokenizerBase,
    history: Sequence[Message],
    tools: Sequence[Any],
    thinking: bool | None,
    written: str,
) -> tuple[str, bool]:
    """The content that the template renders as what the target wrote behind `history`, and whether it does.

    A blank or a header in front of every answer is written by the target and by the template: it must not come twice.
    """

    def follows(content: str) -> str:
        answer = take_apart(tokenizer, [*history, {"role": "assistant", "content": content}], tools, thinking)
        return answer.inserted + answer.written

    try:
        before = follows(MARKER).removesuffix(MARKER)
        for content in (written, written.removeprefix(before)):
            if follows(content) == written:
                return content, True
    except UserError:
        pass  # rendering for training names the record and says why
    return written, False


def check_nothing_lost(message: Message, rendered: str, place: str) -> None:
    """Text, thoughts and calls that the template leaves out would be missing as if the target had not written them."""
    for part in re.split("</?think>", message["content"]):  # templates write thoughts in their own way
        if part.strip() not in rendered:
            raise UserError(f"the chat template does not render the whole text of {place}")
    if message.get("reasoning_content", "").strip() not in rendered:
        raise UserError(f"the chat template does not render the reasoning_content of {place}; remove it from the data")


def check_calls(render: Callable[[Message], str], message: Message, answered: str, place: str) -> None:
    """Without any one of its calls, or the arguments of one, the answer would have to be rendered differently."""
    calls = message.get("tool_calls", [])
    for n, call in enumerate(calls):
        bare = {**call, "function": {**call["function"], "arguments": {}}}
        for fewer in ([], [bare] if call["function"]["arguments"] else []):
            try:
                same = render({**message, "tool_calls": [*calls[:n], *fewer, *calls[n + 1 :]]}) == answered
            except UserError:  # a template that refuses what was taken out does look at it
                continue
            if same:
                raise UserError(f"the chat template does not render the tool call of {place}; use a target with tools")


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of already rendered text, nothing added."""
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    except TypeError:
        raise UserError("a text holds half of a surrogate pair, which is no character; mend it") from None
    return ids


def _text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Any],
    thinking: bool | None,
    answer_next: bool,
) -> str:
    if not tokenizer.chat_template:
        return "\n\n".join(message["content"] for message in messages) + ("\n\n" if answer_next else "")
    switch: dict[str, Any] = {} if thinking is None else {thinking_switch(tokenizer): thinking}
    try:
        rendered: Any = tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=answer_next, **switch
        )
    except Exception as error:  # templates raise their own Jinja errors
        first = first_line(error)
        raise UserError(f"the chat template refuses this conversation: {first}") from None
    return str(rendered)
