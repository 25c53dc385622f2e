"""Plain PEFT adapters on backbones with ways of their own to use a layer, from disk to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import nn

from bayeslora_tool import BayesLoRAClassifier, Policy
from bayeslora_tool.artifacts.loading import load_backbone, load_tokenizer, quiet

pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, Any] = {
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
    | {"share_att_key": True},
    "Albert": {"embedding_size": 8},
    "Longformer": {"attention_window": 8},
}
TEXTS = ["please book a table", "no", "a longer one, which takes a good number of words to read"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_prediction_is_the_same_in_any_company(
    kind: str, tiny_backbone: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(**SIZES, **CONFIGS[kind])
    base, folder = tmp_path / "base", tmp_path / "adapter"
    with quiet():
        whole = getattr(hf, f"{kind}ForSequenceClassification")(config)
        # All but the head, which has three classes in the end.
        kept = {k: v for k, v in whole.state_dict().items() if not k.startswith("classifier")}
        whole.save_pretrained(base, state_dict=kept)
        load_tokenizer(tiny_backbone).save_pretrained(base)
        model = get_peft_model(
            load_backbone(base, ["bad", "good", "other"]),
            LoraConfig(task_type="SEQ_CLS", r=3, target_modules="all-linear", lora_dropout=0.1),
        )
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder, save_embedding_layers=False)
    for noise in ({}, {"placement": "rank", "scope": "sequence"}):
        classifier = BayesLoRAClassifier.from_pretrained(folder, base=base, device="cpu", **noise)
        # One text hangs in the balance, so that `adaptive` goes all its way.
        (first, *_) = classifier.predict(TEXTS, estimator="linearized")
        policy = Policy(tau_conf=first.confidence, tau_var=0.2)
        for estimator in ("deterministic", "linearized", "monte_carlo", "adaptive"):
            how: dict[str, Any] = {"estimator": estimator, "policy": policy}
            together = classifier.predict(TEXTS, **how)
            for text, found in zip(TEXTS, together, strict=True):
                (alone,) = classifier.predict([text], **how)
                assert found.variance_from == alone.variance_from
                assert found.confidence == pytest.approx(alone.confidence, abs=1e-5)
                assert found.variance == pytest.approx(alone.variance, rel=1e-3, nan_ok=True)
        assert "draws" in {p.variance_from for p in together}
