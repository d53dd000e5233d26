"""JSONL files (gzipped too) to conversations; a record that is none is named by file and line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError

Message = dict[str, str]  # {"role": ..., "content": ...}
ROLES = ("system", "user", "assistant", "tool")


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, JSON value) of every line that is not blank."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except ValueError as error:
                        raise UserError(f"{path}, line {number}: this is not JSON ({error}); mend the line") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; convert it first") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def conversation(record: Any, place: str) -> list[Message]:
    """Messages of a record: `messages`, or `prompt` with `response`. `place` names it in errors."""
    if isinstance(record, dict) and {"prompt", "response"} <= record.keys():
        pair = [("user", record["prompt"]), ("assistant", record["response"])]
        record = {"messages": [{"role": role, "content": content} for role, content in pair]}
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UserError(f'{place}: a training record needs "messages", or "prompt" and "response"')
    for message in messages:
        if (
            not isinstance(message, dict)
            or message.get("role") not in ROLES
            or not isinstance(message.get("content"), str)
        ):
            raise UserError(f'{place}: every message needs a "role" ({", ".join(ROLES)}) and a text "content"')
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"{place}: there is no assistant message to learn from")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def read_conversations(path: Path, limit: int | None = None) -> list[list[Message]]:
    """All conversations of a file, in order; an empty file is an error."""
    found = []
    for number, record in read_records(path):
        found.append(conversation(record, f"{path}, line {number}"))
        if limit is not None and len(found) == limit:
            break
    if not found:
        raise UserError(f"{path} holds no conversation")
    return found
