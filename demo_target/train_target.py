"""Train the demo target from scratch: `python -m demo_target.train_target --out DIR [--extra FILE ...]`.

Qwen3 architecture, 10 layers of width 256. Muon for the matrices of the layers, AdamW for the rest; constant
learning rate, then linear decay over the last part. Everything is seeded; the log and the card keep what was run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from .corpus import Conversation, generated_conversations, library_conversations, mixture, read_conversations
from .tokenizer import train_tokenizer

ROW_LENGTH = 320
ROWS = 26
SUPERVISED = 6144  # positions a step whose logits are computed: a fixed number keeps the compiled shapes fixed
IGNORE = -100


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


def encode(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> tuple[list[int], list[int]]:
    """(token ids, labels): only the answer and its end token are supervised."""
    prompt, answer = conversation
    messages = [{"role": "user", "content": prompt}]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(asked, add_special_tokens=False).input_ids
    answer_ids = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return prompt_ids + answer_ids, [IGNORE] * len(prompt_ids) + answer_ids


def packed_rows(
    tokenizer: PreTrainedTokenizerFast, conversations: Iterator[Conversation]
) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Rows of whole conversations of at most ROW_LENGTH tokens, first fit over a small pool."""
    pool: list[tuple[list[int], list[int]]] = []
    while True:
        while len(pool) < 64:
            encoded = encode(tokenizer, next(conversations))
            if len(encoded[0]) <= ROW_LENGTH:
                pool.append(encoded)
        row: list[tuple[list[int], list[int]]] = [pool.pop(0)]
        room = ROW_LENGTH - len(row[0][0])
        while fitting := [c for c in pool if len(c[0]) <= room]:
            longest = max(fitting, key=lambda c: len(c[0])) if room < ROW_LENGTH // 2 else fitting[0]
            pool.remove(longest)
            row.append(longest)
            room -= len(longest[0])
        yield row


def collate(rows: list[list[tuple[list[int], list[int]]]]) -> dict[str, torch.Tensor]:
    """input_ids and position_ids [rows, ROW_LENGTH], the block-causal mask, and the supervised positions.

    `supervised` [SUPERVISED] indexes the flattened rows, `labels` [SUPERVISED] are the tokens that follow.
    """
    shape = (len(rows), ROW_LENGTH)
    input_ids = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE)
    positions = torch.zeros(shape, dtype=torch.long)
    documents = torch.full(shape, -1)
    for r, row in enumerate(rows):
        start = 0
        for d, (ids, marks) in enumerate(row):
            end = start + len(ids)
            input_ids[r, start:end] = torch.tensor(ids)
            labels[r, start : end - 1] = torch.tensor(marks[1:])
            positions[r, start:end] = torch.arange(len(ids))
            documents[r, start:end] = d
            start = end
    visible = (documents[:, :, None] == documents[:, None, :]).tril()
    mask = torch.zeros(visible.shape, dtype=torch.bfloat16).masked_fill(~visible, torch.finfo(torch.bfloat16).min)
    chosen = labels.flatten().ne(IGNORE).nonzero().flatten()[:SUPERVISED]
    supervised = F.pad(chosen, (0, SUPERVISED - len(chosen)))
    chosen_labels = F.pad(labels.flatten()[chosen], (0, SUPERVISED - len(chosen)), value=IGNORE)
    return {
        "input_ids": input_ids,
        "position_ids": positions,
        "mask": mask[:, None],
        "supervised": supervised,
        "labels": chosen_labels,
    }


def learning_rate(step: int, steps: int, decay_share: float = 0.45, warmup: int = 40) -> float:
    """Warm-up, constant, linear decay to 2%."""
    left = (steps - step) / (decay_share * steps)
    return min(1.0, (step + 1) / warmup, max(0.02, left))


def main() -> None:
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
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    real = [c for path in arguments.extra for c in read_conversations(path)]
    real += library_conversations() if real else []
    sample = itertools.islice(generated_conversations(arguments.seed), 20000)
    if arguments.resume:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.resume.parent / "target")
    else:
        tokenizer = train_tokenizer(text for c in itertools.chain(sample, real) for text in c)
    model = build_model(tokenizer, arguments.layers)
    model.set_attn_implementation("eager")  # compiled, it beats the CPU's fused kernel on short rows
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(real):,} real conversations", flush=True)

    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    base_rates = [0.02, 4e-3]
    first = 0
    if arguments.resume:
        state = torch.load(arguments.resume, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]

    def batch_loss(
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        mask: torch.Tensor,
        supervised: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask={"full_attention": mask},
                use_cache=False,
            ).last_hidden_state
            logits = F.linear(hidden.flatten(0, 1)[supervised], model.lm_head.weight)
        return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE)

    compiled_loss = torch.compile(batch_loss, dynamic=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = (arguments.out / "train.jsonl").open("a")
    stream = mixture(arguments.seed + first, real, arguments.real_share, arguments.copying_share, arguments.parts)
    rows = packed_rows(tokenizer, stream)
    tokens, started = 0, time.time()
    for step in range(first, arguments.stop_at or arguments.steps):
        batch = collate(list(itertools.islice(rows, ROWS)))
        for optimizer, rate in zip(optimizers, base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * learning_rate(step, arguments.steps)
        loss = compiled_loss(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += int((batch["position_ids"] > 0).sum())
        if step % 10 == 0 or step + 1 == arguments.steps:
            seconds = time.time() - started
            record = {"step": step, "loss": round(loss.item(), 4), "tokens": tokens, "seconds": round(seconds, 1)}
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(record, f"{tokens / seconds:.0f} tokens/s", flush=True)
        if (step + 1) % arguments.save_every == 0 or step + 1 == arguments.steps:
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step + 1,
            }
            torch.save(state, arguments.out / "state.tmp")
            (arguments.out / "state.tmp").rename(arguments.out / "state.pt")
            shipped: Any = build_model(tokenizer, arguments.layers)
            shipped.load_state_dict(model.state_dict())
            shipped.to(torch.bfloat16).save_pretrained(arguments.out / "target")
            tokenizer.save_pretrained(arguments.out / "target")


if __name__ == "__main__":
    main()
