"""Text that arrives token by token is the text of all tokens, and stop strings are found wherever they stand."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from demo_target.tokenizer import train_tokenizer
from paradraft.text.detokenize import BROKEN, BYTE_OF, Detokenizer, StopStrings, token_text

TEXTS = ("naïve café", "🙂👍🏽 done", "数学は楽しい", "a\u0301 \u200d x", "€5 → ½", "plain words", "\ufffd as such")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["plain words and more words"] * 3)  # every other character is several byte tokens


def pieces(tokenizer: PreTrainedTokenizerFast, ids: list[int], skip: bool = True) -> list[str]:
    text = Detokenizer(tokenizer, skip)
    return [*(text.push(token) for token in ids), text.finish()]


def test_characters_of_several_tokens_come_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        found = pieces(tokenizer, ids)
        assert "".join(found) == text
        if BROKEN not in text:
            assert not any(BROKEN in piece for piece in found)
    ids = tokenizer("ab 🙂")["input_ids"]
    assert "".join(pieces(tokenizer, ids)[:-2]) == "ab " and pieces(tokenizer, ids)[-2:] == ["🙂", ""]


def test_any_tokens_give_the_text_of_all_of_them(tokenizer: PreTrainedTokenizerFast) -> None:
    """Broken bytes too; and none is held back for more than three tokens. The first eight tokens are special."""
    rng = random.Random(0)
    odd = [i for i in range(len(tokenizer)) if BROKEN in tokenizer.decode([i])]
    for _ in range(300):
        ids = [rng.choice(odd) if rng.random() < 0.7 else rng.randrange(8, len(tokenizer)) for _ in range(20)]
        for skip in (True, False):
            found = pieces(tokenizer, ids, skip)
            assert "".join(found) == tokenizer.decode(ids, skip_special_tokens=skip)
    found = pieces(tokenizer, [odd[0]] * 12)
    assert all(found[n] for n in range(3, 12))


@pytest.fixture(scope="module")
def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2's: decoding takes away the blank in front of a text."""
    words = ["<unk>", "a", "▁a", "▁Paris", "Paris", "▁", "▁▁▁▁", "return", "\n", "x", ":", "<0xF0>", "<0x9F>"]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [("▁", "a")], unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def test_a_text_that_goes_on_keeps_its_first_blank(sentencepiece: PreTrainedTokenizerFast) -> None:
    prompt, answer = (
        sentencepiece.convert_tokens_to_ids(words) for words in (["x", ":", "\n"], ["▁▁▁▁", "return", "▁Paris"])
    )
    for before, text in ((prompt, "    return Paris"), ([], "   return Paris")):
        going = Detokenizer(sentencepiece, before=before)
        assert "".join([*map(going.push, answer), going.finish()]) == text
    texts = [token_text(sentencepiece, token) for token in answer]
    assert [text for text, _ in texts] == ["    ", "return", " Paris"]
    assert bytes(byte for _, own in texts for byte in own) == b"    return Paris"
    assert token_text(sentencepiece, sentencepiece.convert_tokens_to_ids("<0xF0>"))[1] == [0xF0]


def test_token_text_has_exact_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert bytes(b for i in ids for b in token_text(tokenizer, i)[1]) == text.encode()
    assert token_text(tokenizer, tokenizer.eos_token_id)[0] == "<|im_end|>"


def test_stop_strings_across_pieces() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        text = "".join(rng.choice("ab") for _ in range(rng.randint(0, 14)))
        stops = ["".join(rng.choice("ab") for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(0, 3))]
        finder, found, rest = StopStrings(stops), "", text
        while rest and not finder.found:
            cut = rng.randint(1, 3)
            found += finder.push(rest[:cut])
            assert text.startswith(found)
            rest = rest[cut:]
        found += finder.finish()
        places = [text.find(stop) for stop in stops if stop in text]
        assert finder.found == bool(places)
        if places:
            # A stop string that is complete ends the answer, though a longer one that began before it may not be.
            first_end = min(text.find(stop) + len(stop) for stop in stops if stop in text)
            assert len(found) <= first_end and any(text[len(found) :].startswith(stop) for stop in stops)
        else:
            assert found == text


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    finder = StopStrings(["\n\nUser:"])
    assert [finder.push(piece) for piece in ("one\n", "two\n\nUs", "e it")] == ["one", "\ntwo", "\n\nUse it"]
    assert finder.finish() == "" and not finder.found


def test_tokens_that_end_one_character_and_begin_the_next() -> None:
    """Two merges across characters, one token for every other byte."""
    text, of = "日本語", {byte: character for character, byte in BYTE_OF.items()}
    merges = [(of[0xA5], of[0xE6]), (of[0xAC], of[0xE8])]
    pieces_known = [*sorted(BYTE_OF), *("".join(merge) for merge in merges)]
    bytewise = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces_known)}, merges))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 7
    assert "".join(pieces(tokenizer, ids)) == text
