"""From tokens that arrive one by one to text: characters of several tokens, and stop strings across tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

BROKEN = "\ufffd"  # what decoding writes for bytes that are no character, or not yet
OPEN_TOKENS = 3  # a character has at most four bytes, so at most three tokens wait for its last one
LONGEST_WINDOW = 64  # tokens that are decoded again and again while all are broken
BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


class Detokenizer:
    """Joined, what `push` and `finish` return is the text of all tokens; `push` holds back unfinished characters.

    A token is decoded behind those that came before it, since many tokenizers treat the first one of a text apart.
    `before`: tokens of a text that this one goes on from; without them it is a text of its own.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, skip_special_tokens: bool = True, before: Sequence[int] = ()
    ) -> None:
        self.tokenizer, self.skip = tokenizer, skip_special_tokens
        self.tokens = list(before)
        self.start, self.done = 0, len(before)  # text of tokens[:done] was returned; decoding begins at `start`

    def push(self, token: int) -> str:
        """The text that is certain now."""
        self.tokens.append(token)
        text = self._decode(len(self.tokens))
        if not text.endswith(BROKEN):
            return self._advance(text, len(self.tokens))
        certain = len(self.tokens) - OPEN_TOKENS
        if certain <= self.done:
            return ""
        before = self._decode(certain)
        if not text.startswith(before):  # the cut is inside a character: tokens can end one and begin the next
            return ""
        broken_for_long = len(self.tokens) - self.start > LONGEST_WINDOW
        return self._advance(before, certain, move=broken_for_long)

    def finish(self) -> str:
        """The rest, however it ends."""
        return self._advance(self._decode(len(self.tokens)), len(self.tokens))

    def _decode(self, end: int) -> str:
        tokens = self.tokens[self.start : end]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=self.skip, clean_up_tokenization_spaces=False))

    def _advance(self, text: str, done: int, move: bool = True) -> str:
        """Return what `text` has beyond tokens[:done] of before; begin to decode there if that is no half character."""
        new = text[len(self._decode(self.done)) :]
        self.start, self.done = self.done if move else self.start, done
        return new


class StopStrings:
    """Cuts a text that arrives in pieces before the first of `stops`, and holds back what may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held, self.found = tuple(stops), "", False

    def push(self, text: str) -> str:
        """The text that no stop string can take back; after `found` there is none."""
        if self.found:
            return ""
        text = self.held + text
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self.held = True, ""
            return text[: min(places)]
        begun = max((begun_at_end(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - begun :]
        return text[: len(text) - begun]

    def finish(self) -> str:
        """What was held back for nothing."""
        held, self.held = self.held, ""
        return held


def begun_at_end(text: str, stop: str) -> int:
    """Characters at the end of `text` that are the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def decoded_behind(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token's text behind another token: alone, SentencePiece's tokens lose the blank in front of a word."""
    before, text = context_of(tokenizer)
    whole = str(tokenizer.decode([*before, token], clean_up_tokenization_spaces=False))
    if whole.startswith(text):
        return whole[len(text) :]
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))


@lru_cache(maxsize=8)
def context_of(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], str]:
    """Tokens of a letter, and their text."""
    ids = tuple(tokenizer("a", add_special_tokens=False)["input_ids"])
    return ids, str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> tuple[str, list[int]]:
    """A token within a text, special ones too, as text and as UTF-8 bytes, exact for parts of a character."""
    text = decoded_behind(tokenizer, token)
    if BROKEN not in text:
        return text, list(text.encode("utf-8", "replace"))
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if len(piece) == 6 and piece.startswith("<0x"):  # byte fallback of SentencePiece
        return text, [int(piece[3:5], 16)]
    if all(character in BYTE_OF for character in piece):  # byte-level BPE
        return text, [BYTE_OF[character] for character in piece]
    return text, list(text.encode("utf-8", "replace"))
