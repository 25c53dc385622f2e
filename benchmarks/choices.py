"""What doubt about a language model's choice costs, in passes that score the choices.

    python benchmarks/choices.py --width 512 --layers 8 --vocabulary 32000

A Llama of random weights with LoRA of rank 16 on all its linear layers reads texts with four
choices of 3 to 7 tokens. Interleaved rounds on one thread, medians of the ratios.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import torch
import typer
from peft import LoraConfig, get_peft_model
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.artifacts.backbone_model import quiet
from bayeslora_tool.benchmarking.timing import ratio, take_turns

WORDS = [f"w{i}" for i in range(40)]
CHOICES = {
    "a": " w1 w2 w3",
    "b": " w4 w5 w6 w7",
    "c": " w8 w9 w10 w11 w12",
    "d": " w8 w13 w14 w15 w16 w17 w18",
}


def made(
    width: int, layers: int, vocabulary: int, placement: Any, scope: Any
) -> BayesLoRAClassifier:
    """A classifier over choices by a language model of random weights."""
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<pad>", "?", *WORDS])}, "?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="?")
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=max(1, width // 128),
        intermediate_size=11 * width // 4, max_position_embeddings=1024, pad_token_id=0,
    )  # fmt: skip
    with quiet():
        model = get_peft_model(
            AutoModelForCausalLM.from_config(config),
            LoraConfig(task_type="CAUSAL_LM", r=16, lora_dropout=0.1, target_modules="all-linear"),
        )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # PEFT begins with zeros, which change nothing
            nn.init.normal_(parameter, std=0.01)
    return BayesLoRAClassifier.from_pretrained(
        model, tokenizer=tokenizer, choices=CHOICES, template="{text} w0",
        placement=placement, scope=scope,
    )  # fmt: skip


def main(
    width: Annotated[int, typer.Option(min=64, help="Of the hidden states.")] = 512,
    layers: Annotated[int, typer.Option(min=1)] = 8,
    vocabulary: Annotated[int, typer.Option(min=64)] = 32_000,
    texts: Annotated[int, typer.Option(min=1, help="In a batch.")] = 8,
    words: Annotated[int, typer.Option(min=1, help="Of each text.")] = 40,
    draws: Annotated[int, typer.Option(min=2)] = 20,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    """Print the ratios, for PEFT's noise and for that of adapters trained here."""
    torch.set_num_threads(1)
    random.seed(0)
    out = Console()
    asked = [" ".join(random.choices(WORDS, k=words)) for _ in range(texts)]
    for placement, scope in (("input", "token"), ("rank", "sequence")):
        network = made(width, layers, vocabulary, placement, scope).network
        encoded = network.encoder.encode(asked)
        ways: dict[str, Callable[[], object]] = {
            "scoring": lambda n=network, e=encoded: n.deterministic(e),
            "linearized": lambda n=network, e=encoded: n.linearize(e),
            f"{draws} draws": lambda n=network, e=encoded: n.draw(e, 0, range(draws)),
        }
        for run in ways.values():  # first calls are slow
            run()
        with out.status("") as status:
            times = take_turns(ways, rounds, status.update)
        found = ", ".join(f"{name} {ratio(times, name, 'scoring'):.2f}" for name in ways)
        one = 1e3 * median(times["scoring"])
        out.print(f"{placement} {scope}: {one:.0f} ms a scoring pass; in such passes: {found}")


if __name__ == "__main__":
    typer.run(main)
