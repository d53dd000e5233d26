"""Conversations to token ids and a loss mask, by the target's own chat template.

What the target wrote is found as the *difference of two renders*: the history with the generation prompt against the
history with the answer. A third render, of a marker in place of the answer, tells the answer's own text from what the
template puts in front of it (an empty thinking block, say), which nobody wrote and nothing learns. Nothing is guessed
from template names; a template that cannot be read this way is an error. Training, regeneration, evaluation and
generation share these functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from ..models.chat import ChatText
from .conversations import Conversation, Message

MARKER = "\ue000answer\ue001"  # private use: no template or data set has reason to hold it


class Rendered:
    """T token ids and, for each, whether the target wrote it; document_ids where several texts share a row. All [T].

    Arrays of 5 bytes a token, 9 where texts share rows: every process of a run holds all of its text. They are copies,
    so that a piece of a text does not keep the whole of it in memory.
    """

    __slots__ = ("document_ids", "input_ids", "loss_mask")

    def __init__(self, input_ids: ArrayLike, loss_mask: ArrayLike, document_ids: ArrayLike | None = None) -> None:
        self.input_ids: NDArray[np.int32] = np.array(input_ids, dtype=np.int32)
        self.loss_mask: NDArray[np.bool_] = np.array(loss_mask, dtype=np.bool_)
        self.document_ids: NDArray[np.int32] | None = None
        if document_ids is not None:
            self.document_ids = np.array(document_ids, dtype=np.int32)

    @property
    def learned(self) -> int:
        """How many of the tokens the target wrote."""
        return int(np.count_nonzero(self.loss_mask))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rendered):
            return NotImplemented
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return all(a is b if a is None or b is None else np.array_equal(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]  # compared by what it holds


@dataclass(frozen=True)
class SplitAnswer:
    """An answer in its rendered conversation: the prompt, what the template put in front of the answer (`inserted`,
    which belongs to the prompt), what the target wrote, and the template text that follows (`rest`).
    """

    prompt: str
    inserted: str
    written: str
    rest: str


def render_prompt(chat: ChatText, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
    """Ids the target answers: the history with the generation prompt, or bare text without a chat template."""
    return chat.encode(chat.render(messages, tools, answer_next=True))


def render_conversation(chat: ChatText, conversation: Conversation) -> list[Rendered]:
    """Ids and mask of a conversation; an answer ends with its stop token, template text behind that is not learned.

    Usually one example. Where the template renders earlier turns differently once the conversation goes on (as
    those do that drop old thoughts), every answer becomes an example of its own, behind the history it was given.
    Raises UserError for a template that is unstable, or that loses a part of an answer.
    """
    if conversation.text is not None:
        return [render_text(chat, conversation.text)]
    messages, done = conversation.messages, ""
    examples: list[tuple[list[int], list[bool]]] = []
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for i in answers:
        answer = split_answer(chat, messages[: i + 1], conversation.tools)
        before = answer.prompt + answer.inserted
        prompt_ids = chat.encode(before)
        mask = [False] * len(prompt_ids)
        if examples and answer.prompt.startswith(done):
            ids, learned = examples[-1]
            more = chat.encode_behind(done, ids, before[len(done) :])
            if ids + more == prompt_ids:  # else the history would not be read as at decoding
                mask[: len(ids)] = learned
                examples.pop()
        ended = not (conversation.cut and i == answers[-1])
        answer_ids, written = answer_tokens(chat, answer, prompt_ids, ended)
        mask += [n < written for n in range(len(answer_ids))]
        examples.append((prompt_ids + answer_ids, mask))
        done = before + answer.written + answer.rest
    return [Rendered(ids, mask) for ids, mask in examples]


def answer_tokens(chat: ChatText, answer: SplitAnswer, prompt_ids: list[int], ended: bool) -> tuple[list[int], int]:
    """Ids of an answer with the template text behind it, and how many of them the target wrote.

    Its stop token counts where the target ended the answer itself. Decoding stops at the first one.
    """
    before = answer.prompt + answer.inserted
    if ended:
        ids = chat.encode_behind(before, prompt_ids, answer.written + answer.rest)
        stop = next((n for n, token in enumerate(ids, 1) if token in chat.stop_tokens), None)
        if stop is not None:
            return ids, stop
    written = chat.encode_behind(before, prompt_ids, answer.written)
    rest = chat.encode_behind(before + answer.written, prompt_ids + written, answer.rest)
    return written + rest, len(written)


def render_text(chat: ChatText, text: str) -> Rendered:
    """Bare text, all of it learned but a start token that the tokenizer puts in front."""
    ids: list[int] = chat.tokenizer(text)["input_ids"]
    return Rendered(ids, [n > 0 or token != chat.tokenizer.bos_token_id for n, token in enumerate(ids)])


def split_answer(chat: ChatText, messages: Sequence[Message], tools: Sequence[Any]) -> SplitAnswer:
    """The last message of `messages`, an answer, against the history with the generation prompt."""
    *history, message = messages
    place = f"message {len(messages)}"

    def rendered(last: Message) -> str:
        return chat.render([*history, last], tools, answer_next=False)

    prompt = chat.render(history, tools, answer_next=True)
    answered = rendered(message)
    marked = rendered({"role": "assistant", "content": MARKER})
    if not answered.startswith(prompt):
        raise UserError(
            f"the chat template is unstable: {place} does not simply follow the rendered history, so what the target "
            "wrote cannot be told from the template's own text"
        )
    if marked.count(MARKER) != 1 or not marked.startswith(prompt):
        raise UserError(f"the chat template is unstable: it does not render the text of {place} as it stands")
    before, _, rest = marked[len(prompt) :].partition(MARKER)
    own = answered[len(prompt) :]
    check_nothing_lost(message, own, place)
    check_calls(rendered, message, answered, place)
    # Blanks in front of an answer are a part of its first token, not of the template.
    inserted = before.rstrip(" ") if before.strip() else ""
    if not own.startswith(inserted) or message["content"].startswith(inserted):
        inserted = ""  # the answer's own: real thoughts, or an empty block that the target did write
    own = own[len(inserted) :]
    rest = rest if rest and own.endswith(rest) else ""
    return SplitAnswer(prompt, inserted, own[: len(own) - len(rest)], rest)


def content_of(chat: ChatText, history: Sequence[Message], tools: Sequence[Any], written: str) -> tuple[str, bool]:
    """The content that the template renders as what the target wrote behind `history`, and whether it does.

    A blank or a header in front of every answer is written by the target and by the template: it must not come twice.
    """

    def follows(content: str) -> str:
        answer = split_answer(chat, [*history, {"role": "assistant", "content": content}], tools)
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
