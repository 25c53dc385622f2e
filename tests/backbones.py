"""Tiny random backbones of the usual architectures, saved as a publisher saves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

from bayeslora_tool.artifacts.backbone_model import quiet

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
WORDS = ["a", "bad", "book", "day", "film", "fine", "good", "lovely", "meal", "play", "poor"]
POSITIONS = 32


class Habits(NamedTuple):
    """What a family's tokenizer does to each text."""

    template: str  # around a text, $A
    pads: bool = True  # whether it has a token of its own to pad with
    left: bool = False  # which side it would pad on
    letters: bool = False  # whether it knows no words, only bytes


class Family(NamedTuple):
    """One of the families that a user may name as a backbone."""

    title: str
    model_type: str
    settings: dict[str, Any]
    habits: Habits
    published: Any  # the class of what is on the hub


_ENCODED, _BARE = Habits("<s> $A </s>"), Habits("$A", pads=False)
_BEGUN = Habits("<s> $A", pads=False, left=True)
_BYTES = Habits("$A", letters=True)
_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": POSITIONS,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_HEADS = _GROUPED | {"head_dim": 4}
_DEBERTA = _SIZES | {
    "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False,
    "pooler_hidden_size": 16, "type_vocab_size": 0,
}  # fmt: skip
_BUCKETS = {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
_BOTH = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "max_position_embeddings": POSITIONS, "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip


def _encoder(title: str, model_type: str, **settings: Any) -> Family:
    return Family(title, model_type, _SIZES | settings, _ENCODED, AutoModelForMaskedLM)


def _decoder(title: str, model_type: str, habits: Habits, settings: dict[str, Any]) -> Family:
    return Family(title, model_type, settings, habits, AutoModelForCausalLM)


FAMILIES: dict[str, Family] = {
    "bert": _encoder("BERT", "bert"),
    "distilbert": Family(
        "DistilBERT", "distilbert",
        {"dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24}
        | {"max_position_embeddings": POSITIONS},
        _ENCODED, AutoModelForMaskedLM,
    ),
    "roberta": _encoder("RoBERTa", "roberta"),
    "xlm-roberta": _encoder("XLM-R", "xlm-roberta"),
    "electra": _encoder("ELECTRA", "electra", embedding_size=8),
    "mpnet": _encoder("MPNet", "mpnet"),
    "albert": _encoder("ALBERT", "albert", embedding_size=8),
    "deberta": _encoder("DeBERTa", "deberta", **_DEBERTA),
    "deberta-v2": _encoder("DeBERTa-v2", "deberta-v2", **_DEBERTA, share_att_key=False),
    "deberta-v3": _encoder("DeBERTa-v3", "deberta-v2", **_DEBERTA, **_BUCKETS),
    "longformer": _encoder("Longformer", "longformer", attention_window=8),
    "modernbert": _encoder(
        "ModernBERT", "modernbert", cls_token_id=0, sep_token_id=2, local_attention=4,
        global_attn_every_n_layers=2,
    ),
    "gpt2": _decoder(
        "GPT-2", "gpt2", _BARE, {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": POSITIONS}
    ),
    "llama": _decoder("Llama", "llama", _BEGUN, _GROUPED),
    "mistral": _decoder("Mistral", "mistral", _BEGUN, _GROUPED | {"sliding_window": 8}),
    "qwen2": _decoder("Qwen2", "qwen2", _BYTES, _GROUPED),
    "qwen3": _decoder("Qwen3", "qwen3", _BYTES, _HEADS),
    "gemma": _decoder("Gemma", "gemma", Habits("<s> $A", left=True), _HEADS),
    "gemma2": _decoder("Gemma 2", "gemma2", Habits("<s> $A", left=True), _HEADS),
    "gemma3": _decoder("Gemma 3 (text)", "gemma3_text", Habits("<s> $A", left=True), _HEADS),
    "phi3": _decoder("Phi-3", "phi3", Habits("$A", left=True), _GROUPED),
    "opt": _decoder(
        "OPT", "opt", Habits("</s> $A"),
        {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 24}
        | {"max_position_embeddings": POSITIONS, "word_embed_proj_dim": 16},
    ),
    "gpt-neox": _decoder("GPT-NeoX", "gpt_neox", _BARE, _SIZES),
}  # fmt: skip
# Whose ways to read a text are others than those that a posterior of one pass assumes.
REFUSED: dict[str, Family] = {
    "xlnet": _decoder(
        "XLNet", "xlnet", Habits("$A </s> <s>", left=True),
        {"d_model": 16, "n_layer": 3, "n_head": 4, "d_inner": 24},
    ),
    "bart": Family("BART", "bart", _BOTH, _ENCODED, AutoModelForSeq2SeqLM),
    "t5": Family(
        "T5", "t5",
        {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
        | {"decoder_start_token_id": 1},
        Habits("$A </s>"), AutoModelForSeq2SeqLM,
    ),
}  # fmt: skip


def word_tokenizer(
    vocabulary: Sequence[str] = (*SPECIAL, *WORDS),
    *,
    special: bool = True,
    habits: Habits = _ENCODED,
) -> PreTrainedTokenizerFast:
    """One token a word, or a letter.

    Args:
        vocabulary: In the order of the ids.
        special: Whether it has a beginning, an end and, by its habits, padding.
        habits: Of the family.
    """
    if habits.letters:
        known = {
            w: i
            for i, w in enumerate(
                (*SPECIAL, "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", *ascii_lowercase)
            )
        }
        words = Tokenizer(models.BPE(known, []))
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
    if special and habits.template != "$A":
        words.post_processor = processors.TemplateProcessing(
            single=habits.template, special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    named: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    if habits.pads:
        named["pad_token"] = "<pad>"
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        padding_side="left" if habits.left else "right",
        **named if special else {},
    )


def settings_of(kind: str, vocabulary: int) -> Any:
    """The configuration of a family's tiny model, with embeddings for so many tokens."""
    family = (FAMILIES | REFUSED)[kind]
    pad = 1 if family.habits.pads else None
    return AutoConfig.for_model(
        family.model_type,
        **{"vocab_size": vocabulary, "pad_token_id": pad, "bos_token_id": 0, "eos_token_id": 2}
        | family.settings,
    )


def save_backbone(
    folder: Path,
    kind: str,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    published: bool = False,
) -> Path:
    """A backbone with random weights.

    Args:
        folder: That it is saved in.
        kind: Of the families.
        tokenizer: Instead of one with the family's habits.
        published: As its publisher saves it, with the head it was pretrained with; else bare.
    """
    torch.manual_seed(5)
    family = (FAMILIES | REFUSED)[kind]
    tokenizer = tokenizer or word_tokenizer(habits=family.habits)
    with quiet():
        kept = family.published if published else AutoModel
        model = kept.from_config(settings_of(kind, len(tokenizer)))
        for parameter in model.parameters():  # freshly initialised, all texts look alike
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
