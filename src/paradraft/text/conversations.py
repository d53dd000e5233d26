"""Records to conversations: the shapes in which data sets come, and why a record is bad.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
    {"prompt": "...", "response": "..."}       {"text": "..."}
    {"turns": ["...", "..."]}                  {"prompt": "..."}        (prompts alone, to be answered)

Messages may carry `reasoning_content` and `tool_calls`, a record `tools` (function schemas) and `id`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import parse_json

Message = dict[str, Any]  # role, content (text), perhaps reasoning_content, tool_calls, name, tool_call_id
ROLES = ("system", "user", "assistant", "tool")
SHARED_ROLES = {"human": "user", "gpt": "assistant", "function": "tool", "observation": "tool"}  # of from/value records
SHAPES = 'it needs "messages", "conversations", "prompt" (with "response", to learn from it), "text", or "turns"'


class BadRecord(ValueError):
    """Why a record is no conversation; whoever reads it adds the file and the line."""


@dataclass(frozen=True)
class Conversation:
    """Messages in the form chat templates take, or bare `text`.

    tools: function schemas for the template. cut: the last answer was ended by a length limit, so the target did
    not write the stop token that the template puts behind it. place: file and line.
    """

    messages: tuple[Message, ...] = ()
    tools: tuple[Any, ...] = ()
    text: str | None = None
    cut: bool = False
    id: str | None = None
    place: str = ""

    @property
    def answered(self) -> bool:
        """There is something to learn: an answer, or bare text."""
        return self.text is not None or any(message["role"] == "assistant" for message in self.messages)


def parse_record(record: Any, place: str = "") -> Conversation:
    """The conversation of a record; raises BadRecord."""
    if not isinstance(record, dict):
        raise BadRecord(f"this is no record, {SHAPES}")
    found = {name: value for name, value in record.items() if value is not None}  # Parquet fills gaps with null
    name = None if "id" not in found else str(found["id"])
    tools = found.get("tools") or ()
    if not isinstance(tools, list | tuple):
        raise BadRecord('"tools" must be a list of function schemas')
    cut = found.get("finish_reason") == "length"
    chat = found.keys() & {"messages", "conversations", "turns", "prompt"}
    if isinstance(text := found.get("text"), str) and not chat:
        if not text.strip():
            raise BadRecord('its "text" is empty')
        conversation = Conversation(text=text, id=name, place=place)
    else:
        messages = tuple(parse_message(message) for message in messages_of(found))
        conversation = Conversation(messages, tuple(tools), None, cut, name, place)
    check_writable(conversation)
    return conversation


def messages_of(record: dict[str, Any]) -> list[Any]:
    """The raw messages of a record of any shape."""
    for shape in ("messages", "conversations"):
        if shape in record:
            messages = record[shape]
            if not isinstance(messages, list) or not messages:
                raise BadRecord(f'"{shape}" must be a list of messages that is not empty')
            return messages
    if "turns" in record:
        turns = record["turns"]
        if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
            raise BadRecord('"turns" must be a list of texts, none of them empty')
        return [{"role": "user", "content": turn} for turn in turns]
    if "prompt" in record:
        prompt = record["prompt"]
        asked = prompt if isinstance(prompt, list) and prompt else [{"role": "user", "content": prompt}]
        answer = [{"role": "assistant", "content": record["response"]}] if "response" in record else []
        return [*asked, *answer]
    raise BadRecord(f"this is no record, {SHAPES}")


def parse_message(message: Any) -> Message:
    """One message with role and text, whichever of the two spellings it came in; raises BadRecord."""
    if not isinstance(message, dict):
        raise BadRecord("every message must be an object")
    role = message.get("role", message.get("from"))
    role = SHARED_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise BadRecord(f'every message needs a "role" ({", ".join(ROLES)}), not {str(role)[:40]!r}')
    parsed: Message = {"role": role, "content": ""}
    calls = message.get("tool_calls")
    if calls:
        parsed["tool_calls"] = [parse_call(call) for call in (calls if isinstance(calls, list) else [calls])]
    content = message.get("content", message.get("value"))
    if content is not None or not calls:
        parsed["content"] = parse_content(content)
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning:
        if not isinstance(reasoning, str):
            raise BadRecord('"reasoning_content" must be text')
        parsed["reasoning_content"] = reasoning
    for extra in ("name", "tool_call_id"):
        if isinstance(message.get(extra), str):
            parsed[extra] = message[extra]
    return parsed


def parse_content(content: Any) -> str:
    """Text, or a list of text parts."""
    if isinstance(content, list) and content:
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise BadRecord('every message needs a text "content"')
    return content


def parse_call(call: Any) -> dict[str, Any]:
    """{"type": "function", "function": {"name", "arguments"}} with the arguments as an object, as templates expect."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRecord('every entry of "tool_calls" needs a function "name"')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments or "{}")
        except ValueError:
            raise BadRecord(f'the arguments of the call of "{function["name"][:40]}" are not JSON') from None
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def check_writable(conversation: Conversation) -> None:
    """Refuse what is no JSON in UTF-8: tables hold dates and bytes, Python's own texts half surrogate pairs."""
    try:
        held = [conversation.id, conversation.messages, conversation.tools, conversation.text]
        json.dumps(held, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise BadRecord(f"it cannot be written as JSON in UTF-8 ({error})") from None


def turns_of(conversation: Conversation) -> list[list[Message]]:
    """The messages in front of each answer, up to the first result of a tool, which belongs to an old answer."""
    turns: list[list[Message]] = []
    waiting: list[Message] = []
    for message in conversation.messages:
        if message["role"] == "tool":
            break
        if message["role"] == "assistant":
            continue
        waiting.append(message)
        if message["role"] == "user":
            turns.append(waiting)
            waiting = []
    return turns


# --- JSON lines --------------------------------------------------------------------------------------------------


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, JSON value or BadRecord) of every line that is not blank.

    Lines are split as bytes, so that a line in another encoding spoils no other.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, json_value(line)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def json_array(path: Path) -> list[Any] | None:
    """The records of a file that is one JSON list, as ShareGPT's are; None for a file of lines."""
    if path.name.removesuffix(".gz").endswith(".jsonl") or not path.is_file():  # a pipe can be read only once
        return None
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            if not start.startswith(b"["):
                return None
            file.seek(0)
            return list(parse_json(file.read()))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise UserError(f"{path} begins as a JSON list but is {error}; mend it, or give one record a line") from None


def json_value(line: bytes) -> Any:
    """The value of a line, or a BadRecord (returned, not raised) that says why it has none."""
    try:
        return parse_json(line)
    except ValueError as error:
        return BadRecord(f"this is {error}; mend the line")
