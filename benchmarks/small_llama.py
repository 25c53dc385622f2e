"""Makes a small language model of its own, where none can be fetched: a Llama of 5 million weights.

    python benchmarks/small_llama.py data runs/small_llama

Tokenizer (byte-level BPE) and model learn nothing but to continue the training texts of SST-2,
split by sentence, and of CLINC150, in `data/sst2_sentences` and `data/clinc150`; no label is shown.
Texts that recur among those that are measured on later (tune, calibration, the GLUE dev set) are
left out. What comes out is an ordinary folder of transformers, a backbone for `train`.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, set_seed

from bayeslora_tool.text import normal_text
from bayeslora_tool.training.dataset import read_texts

BEGIN, END, PAD = "<s>", "</s>", "<pad>"
err = Console(stderr=True)


def read_corpus(data: Path) -> tuple[list[str], list[str], int]:
    """Texts to learn from, texts to hear the loss on, and how many were left out."""

    def sentences(file: str) -> list[str]:
        return [t.strip() for t in read_texts(data / file, text_column="sentence")]

    held_out = sentences("sst2_sentences/tune.tsv")
    kept_back = {*held_out, *sentences("sst2_sentences/calibration.tsv")}
    kept_back |= {*sentences("sst2/glue_dev.tsv")}
    foreign = {normal_text(text) for text in kept_back}
    clinc = json.loads((data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    found = sentences("sst2_sentences/train.tsv") + [text for text, _ in clinc["train"]]
    texts = [text for text in found if normal_text(text) not in foreign]
    return texts, held_out, len(found) - len(texts)


def make_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, which begins each text with a token of its own."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    # Words within a text have a space before them; let the first one have none, and one.
    bpe.train_from_iterator(
        (form for text in texts for form in (text, f" {text}")),
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=[BEGIN, END, PAD], initial_alphabet=letters,
            min_frequency=3, show_progress=False,
        ),
    )  # fmt: skip
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BEGIN, eos_token=END, pad_token=PAD
    )


def batches(rows: Sequence[list[int]], size: int, order: random.Random) -> Iterator[list[Tensor]]:
    """All rows in batches of texts alike in length, in another order each time."""
    shuffled = sorted(rows, key=lambda row: (len(row), order.random()))
    groups = [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
    order.shuffle(groups)
    for group in groups:
        yield [torch.tensor(row) for row in group]


def loss_of(model: Any, rows: Sequence[Tensor]) -> tuple[Tensor, int]:
    """Sum of the tokens' losses, and how many tokens."""
    ids = pad_sequence(list(rows), batch_first=True, padding_value=2)
    goal = pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=-100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1]).logits  # padding stands behind, where nobody looks
    sums = cross_entropy(logits.float().flatten(0, 1), goal.flatten(), reduction="sum")
    return sums, int((goal >= 0).sum())


def main(
    data: Annotated[Path, typer.Argument(help="Folder with sst2_sentences, sst2, clinc150.")],
    output: Annotated[Path, typer.Argument(help="Folder for the model.")],
    epochs: int = 3,
    batch_size: Annotated[int, typer.Option(help="Texts a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak, of AdamW.")] = 1.5e-3,
    vocabulary: Annotated[int, typer.Option(help="Tokens.")] = 8192,
    seed: int = 0,
) -> None:
    """Train the tokenizer and the model; prints the loss on 500 held-out sentences an epoch."""
    set_seed(seed)
    texts, held_out, dropped = read_corpus(data)
    tokenizer = make_tokenizer(texts, vocabulary)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        ),
        attn_implementation="eager",  # of short texts on a CPU, twice as fast
    )  # fmt: skip
    rows, others = ([[*tokenizer(t).input_ids, 1] for t in part] for part in (texts, held_out))
    tokens = sum(len(row) - 1 for row in rows)
    err.print(
        f"{len(texts):,} texts ({dropped} left out: they are measured on), {tokens:,} tokens of "
        f"{len(tokenizer):,}; {sum(p.numel() for p in model.parameters()):,} weights"
    )
    total = epochs * -(-len(rows) // batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.1, betas=(0.9, 0.95), fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / 200, 0.05 + 0.475 * (1 + math.cos(math.pi * step / total))),
    )
    order, begun, step = random.Random(seed), time.monotonic(), 0
    for epoch in range(epochs):
        seen, summed = 0, 0.0
        for batch in batches(rows, batch_size, order):
            loss, n = loss_of(model, batch)
            (loss / n).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            seen, summed, step = seen + n, summed + loss.item(), step + 1
            if step % 100 == 0:
                err.print(
                    f"step {step} of {total}, loss {summed / seen:.3f}, "
                    f"{time.monotonic() - begun:.0f} s"
                )
        with torch.inference_mode():
            found = [loss_of(model, b) for b in batches(others, batch_size, random.Random(0))]
        held = sum(float(loss) for loss, _ in found) / sum(n for _, n in found)
        err.print(f"epoch {epoch + 1}: loss {summed / seen:.3f}, of held-out sentences {held:.3f}")
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    err.print(f"saved {output}")


if __name__ == "__main__":
    typer.run(main)
