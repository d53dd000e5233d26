"""Reading, rendering and batching."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from paradraft.data.batches import batches_from, check_supervision, collate, epoch_batches
from paradraft.data.conversations import read_conversations
from paradraft.data.render import Rendered, render_conversation, render_prompt, template_hash
from paradraft.demo.tokenizer import train_tokenizer
from paradraft.errors import UserError


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the cat sat on the mat", "12 345"] * 5)


def test_conversations_of_both_shapes_and_gzip(tmp_path: Path) -> None:
    records = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"prompt": "c", "response": "d"},
    ]
    text = "\n\n".join(json.dumps(record) for record in records)
    plain, packed = tmp_path / "x.jsonl", tmp_path / "x.jsonl.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (plain, packed):
        found = read_conversations(path)
        assert [m["content"] for messages in found for m in messages] == ["a", "b", "c", "d"]
    assert len(read_conversations(plain, limit=1)) == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", "line 2: this is not JSON"),
        ("[1, 2]", 'line 2: a training record needs "messages"'),
        ('{"messages": []}', "line 2: a training record needs"),
        ('{"messages": [{"role": "wizard", "content": "x"}]}', 'line 2: every message needs a "role"'),
        ('{"messages": [{"role": "user", "content": 3}]}', "line 2: every message"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "line 2: there is no assistant message"),
        ('{"prompt": "x", "response": null}', "line 2: every message"),
    ],
)
def test_bad_records_are_named_by_file_and_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "c", "response": "d"}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"bad\.jsonl, {complaint}"):
        read_conversations(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_conversations(tmp_path / "none.jsonl")
    for name, content, complaint in (
        ("empty.jsonl", b"\n", "holds no conversation"),
        ("latin.jsonl", b'{"prompt": "\xe9"}', "not UTF-8"),
        ("rotten.jsonl.gz", gzip.compress(b"x" * 999)[:20] + b"\xff" * 40, "cannot be read"),
        ("torn.jsonl.gz", gzip.compress(b'{"prompt": "c", "response": "d"}\n' * 99)[:-9], "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=complaint):
            read_conversations(tmp_path / name)


def test_the_mask_covers_what_the_target_wrote(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "sat on"},
        {"role": "user", "content": "12"},
        {"role": "assistant", "content": "345"},
    ]
    (rendered,) = render_conversation(tokenizer, messages, frozenset([tokenizer.eos_token_id]))
    learned = [i for i, m in zip(rendered.input_ids, rendered.loss_mask, strict=True) if m]
    assert tokenizer.decode(learned) == "sat on<|im_end|>345<|im_end|>"
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(rendered.input_ids) == whole
    asked = render_prompt(tokenizer, messages[:1])
    assert rendered.input_ids[: len(asked)] == asked and not any(rendered.loss_mask[: len(asked)])


def test_templates_that_drop_old_thoughts_make_an_example_of_every_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    thinking = train_tokenizer(["the cat sat on the mat"])
    thinking.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}(hm)\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    messages = [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate("abcd")]
    first, second = render_conversation(thinking, messages, frozenset([thinking.eos_token_id]))
    learned = [[i for i, m in zip(r.input_ids, r.loss_mask, strict=True) if m] for r in (first, second)]
    assert [thinking.decode(ids) for ids in learned] == ["(hm)\nb<|im_end|>", "(hm)\nd<|im_end|>"]
    assert "(hm)\nb" not in thinking.decode(second.input_ids) and "b<|im_end|>" in thinking.decode(second.input_ids)


def test_unstable_templates_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    unstable = train_tokenizer(["the cat sat on the mat"])
    unstable.chat_template = "{{ messages | length }} messages\n{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(UserError, match="template is unstable"):
        render_conversation(unstable, messages, frozenset())
    unstable.chat_template = "{{ raise_exception('no system messages here') }}"
    with pytest.raises(UserError, match="no system messages here"):
        render_conversation(unstable, messages, frozenset())


def test_without_a_template_text_is_plain(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = train_tokenizer(["the cat sat on the mat"])
    bare.chat_template = None
    assert template_hash(bare) == "none" != template_hash(tokenizer)
    assert bare.decode(render_prompt(bare, [{"role": "user", "content": "the cat"}])) == "the cat\n\n"


def test_an_all_zero_mask_is_an_error() -> None:
    with pytest.raises(UserError, match="loss mask is zero everywhere"):
        check_supervision([Rendered([1, 2, 3], [False, True, False])], "x.jsonl")
    assert len(check_supervision([Rendered([1, 2], [True, True]), Rendered([1], [True])], "x")) == 1


def test_batches_cover_the_epoch_and_resume_anywhere() -> None:
    lengths = [(7 * i) % 31 + 1 for i in range(103)]
    batches = epoch_batches(lengths, 4, seed=1, epoch=0)
    assert len(batches) == 25 and all(len(batch) == 4 for batch in batches)
    assert len({i for batch in batches for i in batch}) == 100
    assert batches != epoch_batches(lengths, 4, seed=1, epoch=1)
    stream = batches_from(lengths, 4, seed=1, step=0)
    first = [next(stream) for _ in range(60)]
    resumed = batches_from(lengths, 4, seed=1, step=37)
    assert [next(resumed) for _ in range(23)] == first[37:]
    assert epoch_batches([3, 4], 4, seed=1, epoch=0) == [[0, 1]]


def test_batches_hold_sequences_of_similar_length() -> None:
    lengths = [(37 * i) % 199 + 1 for i in range(512)]
    spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in epoch_batches(lengths, 8, 1, 0)]
    assert sum(spread) / len(spread) < 20


def test_collate_pads_on_the_right() -> None:
    batch = collate([Rendered([5, 6, 7], [False, True, True]), Rendered([8], [True])])
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.loss_mask.tolist() == [[False, True, True], [True, False, False]]
    assert batch.document_ids.tolist() == [[0, 0, 0], [0, -1, -1]]
