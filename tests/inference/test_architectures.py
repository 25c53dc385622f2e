"""Each number beside brute force, on tiny random models of many architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from bayeslora_tool.artifacts.loading import quiet
from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.network import Network
from bayeslora_tool.inference.posterior import AdapterPosterior
from bayeslora_tool.inference.self_check import SelfCheck, checked_network

RATE = 0.2
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "num_labels": 4,
    "pad_token_id": 0,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}
GROUPED = SIZES | SPECIAL | {"num_key_value_heads": 2}


def model(kind: str, **options: Any) -> Any:
    """A sequence classifier of a kind that transformers has."""
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(**options)
    return getattr(hf, f"{kind}ForSequenceClassification")(config).eval()


DEBERTA = SIZES | {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "pooler_hidden_size": 16,
}
MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: model("Bert", **SIZES),
    "deberta-v2": lambda: model("DebertaV2", **DEBERTA, share_att_key=False),
    "deberta-v3": lambda: model(
        "DebertaV2", **DEBERTA, share_att_key=True, norm_rel_ebd="layer_norm", position_buckets=8
    ),
    "deberta": lambda: model("Deberta", **DEBERTA),
    "longformer": lambda: model("Longformer", **SIZES, attention_window=8),
    "albert": lambda: model("Albert", **SIZES, embedding_size=8),
    "distilbert": lambda: model(
        "DistilBert", vocab_size=50, dim=16, n_layers=3, n_heads=4, hidden_dim=24, num_labels=4,
        max_position_embeddings=64,
    ),
    "roberta": lambda: model("Roberta", **SIZES),
    "electra": lambda: model("Electra", **SIZES, embedding_size=8),
    "mpnet": lambda: model("MPNet", **SIZES),
    "modernbert": lambda: model(
        "ModernBert", **SIZES, **SPECIAL, cls_token_id=1, sep_token_id=2,
        global_attn_every_n_layers=2, local_attention=4,
    ),
    "gpt2": lambda: model(
        "GPT2", vocab_size=50, n_embd=16, n_layer=3, n_head=4, n_positions=64, num_labels=4,
        pad_token_id=0, **SPECIAL,
    ),
    "llama": lambda: model("Llama", **GROUPED),
    "qwen2": lambda: model("Qwen2", **GROUPED),
    "gemma": lambda: model("Gemma", **GROUPED, head_dim=4),
    "opt": lambda: model(
        "OPT", vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=4,
        ffn_dim=24, max_position_embeddings=64, word_embed_proj_dim=16, num_labels=4,
        pad_token_id=0, **SPECIAL,
    ),
}  # fmt: skip
# PEFT cannot have the layer before this head both adapted and trained whole.
TARGETS = {"distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"]}
SCOPES = ["sequence", "token"]
PLACEMENTS = ["rank", "input"]


class _Encoder:
    """What a network needs of one: a token id a word."""

    pad_id = 0

    def encode(self, texts: Any) -> list[Encoded]:
        return [text(i, *(3 + hash_(w) % 47 for w in t.split())) for i, t in enumerate(texts)]

    def tensors(self, batch: Any) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(text.ids) for text in batch]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        return ids, (ids != self.pad_id).long()


def hash_(word: str) -> int:
    return sum(ord(c) * (i + 1) for i, c in enumerate(word))


def text(position: int, *ids: int) -> Encoded:
    return Encoded(position, [1, *ids, 2], False, 0.0)


BATCH = [
    text(0, 7), text(1, 9, 4, 31, 3), text(2, 8, 8, 11, 40), text(3, *range(10, 18)),
    text(4, *range(20, 31)),
]  # fmt: skip


def adapted(kind: str, *, spread: float = 0.3) -> Any:
    """With LoRA of random weights on all its linear layers."""
    with quiet():
        peft = get_peft_model(
            MODELS[kind](),
            LoraConfig(
                task_type="SEQ_CLS", r=3, lora_alpha=6, lora_dropout=RATE,
                target_modules=TARGETS.get(kind, "all-linear"),
            ),
        )  # fmt: skip
    torch.manual_seed(1)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=spread)
    return peft.eval()


def checked(kind: str, spread: float = 0.3, **noise: Any) -> tuple[Network, SelfCheck]:
    peft = adapted(kind, spread=spread)
    posterior = AdapterPosterior(peft, dropout=RATE, **noise)
    return checked_network(peft, posterior, _Encoder())  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_text_comes_out_the_same_in_any_company(kind: str, placement: str, scope: str) -> None:
    network, _ = checked(kind, placement=placement, scope=scope)
    passed, variance, gradients = network.linearize(BATCH, keep=True)
    drawn = network.draw(BATCH, 0, range(5))
    change = network.posterior.project(gradients, 0, range(5))
    for row, one in enumerate(BATCH):
        alone, own, slopes = network.linearize([one], keep=True)
        torch.testing.assert_close(passed.logits[[row]], alone.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(passed.features[[row]], alone.features, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(passed.head[[row]], alone.head, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(variance[[row]], own, rtol=1e-3, atol=1e-9)
        torch.testing.assert_close(
            drawn[:, [row]], network.draw([one], 0, range(5)), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            change[:, [row]], network.posterior.project(slopes, 0, range(5)), rtol=1e-3, atol=1e-5
        )
