"""Train the demo target from scratch: `python -m demo_target.train_target --out DIR [--extra FILE ...]`.

Qwen3 architecture, 10 layers of width 256; Muon for the matrices, AdamW for the rest, the library's schedule. Every
draw is seeded. DIR/model is a Hugging Face directory in bfloat16, DIR/state.pt what `--resume` goes on from.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from paradraft.drafters import Batch
from paradraft.models.attention import document_attention
from paradraft.models.chat import ChatText, stop_tokens_of
from paradraft.models.cpu_kernels import bfloat16_is_fast
from paradraft.models.target import run_decoder
from paradraft.text.batches import collate, pack
from paradraft.text.conversations import Conversation
from paradraft.text.render import Rendered, render_conversation
from paradraft.training.optim import learning_rate_at, make_optimizer

from .corpus import generated_conversations, library_conversations, mixture, read_conversations
from .tokenizer import train_tokenizer

ROW_LENGTH = 320
ROWS = 26
PACKED = 2048  # conversations that are packed into rows together
TOKENIZER_TEXTS = 20000
RATE = 0.02  # of Muon; AdamW beside it runs at 0.2 of this


def build_model(tokenizer: PreTrainedTokenizerFast, layers: int) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def batches(chat: ChatText, conversations: Iterator[tuple[str, str]], seed: int) -> Iterator[Batch]:
    """ROWS rows at a time, of whole conversations; those longer than a row are left out."""
    rows: list[Rendered] = []
    for number in itertools.count():
        rendered = [
            render_conversation(
                chat, Conversation(({"role": "user", "content": q}, {"role": "assistant", "content": a}))
            )
            for q, a in itertools.islice(conversations, PACKED)
        ]
        short = [example for (example,) in rendered if len(example.input_ids) <= ROW_LENGTH]
        rows += pack(short, ROW_LENGTH, seed + number)
        while len(rows) >= ROWS:
            yield collate(rows[:ROWS])
            del rows[:ROWS]


def answer_loss(model: Qwen3ForCausalLM, batch: Batch) -> Tensor:
    """Mean cross entropy (nats) of the tokens that the assistant wrote, each after the tokens of its document."""
    learned = batch.loss_mask[:, 1:] & (batch.document_ids[:, 1:] == batch.document_ids[:, :-1])
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast(torch.device("cpu"))):
        attention = document_attention(batch.document_ids)
        hidden = run_decoder(model.model, {"input_ids": batch.input_ids}, *attention, torch.float32, None)
        logits = model.lm_head(hidden[:, :-1][learned])
    return F.cross_entropy(logits.float(), batch.input_ids[:, 1:][learned])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--extra", type=Path, action="append", default=[], help="real conversations (JSONL, .gz)")
    parser.add_argument("--steps", type=int, default=1500, help=f"of {ROWS} rows of {ROW_LENGTH} tokens")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--real-share", type=float, default=0.16, help="of conversations, where --extra is given")
    parser.add_argument("--copying-share", type=float, default=0.0, help="of conversations: texts to be repeated")
    parser.add_argument("--parts", type=int, nargs=3, default=(1, 1, 1), help="of math, code and chat")
    parser.add_argument("--stop-at", type=int, help="stop after this step; the schedule still runs to --steps")
    parser.add_argument("--resume", type=Path, help="a state.pt written by an earlier run")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    asked = parse(arguments)
    torch.manual_seed(asked.seed)
    real = [c for path in asked.extra for c in read_conversations(path)]
    real += library_conversations() if real else []
    if asked.resume:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(asked.resume.parent / "model")
    else:
        sample = itertools.islice(generated_conversations(asked.seed), TOKENIZER_TEXTS)
        tokenizer = train_tokenizer(text for c in itertools.chain(sample, real) for text in c)
    model = build_model(tokenizer, asked.layers)
    optimizer = make_optimizer("muon", model.named_parameters(), RATE, weight_decay=0.01)
    first = 0
    if asked.resume:
        state = torch.load(asked.resume, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizers"])
        first = state["step"]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(real):,} real conversations", flush=True)

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "optimizers": optimizer.state_dict(), "step": step}
        torch.save(state, asked.out / "state.tmp")
        os.replace(asked.out / "state.tmp", asked.out / "state.pt")
        shipped = build_model(tokenizer, asked.layers)
        shipped.load_state_dict(model.state_dict())
        shipped.bfloat16().save_pretrained(asked.out / "model")
        tokenizer.save_pretrained(asked.out / "model")

    asked.out.mkdir(parents=True, exist_ok=True)
    stream = mixture(asked.seed + first, real, asked.real_share, asked.copying_share, asked.parts)
    chat = ChatText.of(tokenizer, stop_tokens_of(None, tokenizer))
    tokens, started, last = 0, time.time(), asked.stop_at or asked.steps
    for step, batch in zip(range(first, last), batches(chat, stream, asked.seed + first), strict=False):
        optimizer.zero_grad()
        loss = answer_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(learning_rate_at(step, asked.steps, RATE, warmup_ratio=40 / asked.steps))
        tokens += int((batch.document_ids >= 0).sum())
        if step % 10 == 0 or step + 1 == last:
            seconds = round(time.time() - started, 1)
            record = {"step": step, "loss": round(loss.item(), 4), "tokens": tokens, "seconds": seconds}
            with (asked.out / "train.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            print(record, flush=True)
        if (step + 1) % asked.save_every == 0 or step + 1 == last:
            save(step + 1)


if __name__ == "__main__":
    main()
