"""The quick pass against transformers' own forward, on random models of a few numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from bayeslora_tool.artifacts.backbone_model import quiet
from bayeslora_tool.inference import bert
from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.network import Network
from bayeslora_tool.inference.posterior import AdapterPosterior

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "num_labels": 5,
}
TARGETS = {
    "all": "all-linear",
    "few": ["query", "value"],
    "wide": ["intermediate.dense", "key"],
}


class _Encoder:
    """What a network needs of one."""

    pad_id = 0

    def tensors(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(len(text.ids) for text in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(batch):
            ids[row, : len(text.ids)] = torch.tensor(text.ids)
            mask[row, : len(text.ids)] = 1
        return ids, mask


def network(model: nn.Module, targets: Any = "all-linear", **options: Any) -> Network:
    with quiet():
        adapted = get_peft_model(
            model, LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=6, target_modules=targets)
        )
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    adapted.eval()
    posterior = AdapterPosterior(adapted, dropout=0.2, **options)
    return Network(adapted, posterior, _Encoder())  # type: ignore[arg-type]


def batch(*lengths: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)
    return [
        Encoded(i, torch.randint(1, 50, (n,), generator=generator).tolist(), False, 0.0)
        for i, n in enumerate(lengths)
    ]


def bert_model(**options: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**(SIZES | options)))


BATCHES = [batch(1), batch(4, 4, 4), batch(1, 2, 2, 5, 9, 9), batch(30)]


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("options", [{}, {"hidden_act": "relu"}, {"type_vocab_size": 1}])
def test_computes_what_transformers_computes(targets: str, options: Any) -> None:
    net = network(bert_model(**options), TARGETS[targets])
    quick = net.quick
    assert quick is not None
    for texts in BATCHES:
        net.quick = quick
        got, got_linear = net.deterministic(texts), net.linearize(texts, keep=True)
        net.quick = None
        own, own_linear = net.deterministic(texts), net.linearize(texts, keep=True)
        for name in ("logits", "features", "head", "energy", "lengths"):
            torch.testing.assert_close(getattr(got, name), getattr(own, name), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got_linear.variance, own_linear.variance, rtol=1e-3, atol=1e-9)
        for name, gradient in own_linear.gradients.items():
            torch.testing.assert_close(got_linear.gradients[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("noise", [("rank", "token"), ("input", "sequence"), ("input", "token")])
def test_other_noise_gives_the_variance_of_the_model_itself(noise: Any) -> None:
    net = network(bert_model(), placement=noise[0], scope=noise[1])
    assert net.quick is not None
    for texts in BATCHES:
        got = net.linearize(texts).variance
        quick, net.quick = net.quick, None
        own = net.linearize(texts).variance
        net.quick = quick
        torch.testing.assert_close(got, own, rtol=1e-3, atol=1e-9)


def test_draws_are_untouched_by_the_shared_weights() -> None:
    texts = batch(2, 5)
    drawn = network(bert_model()).draw(texts, 0, range(4))
    net = network(bert_model())
    net.quick = None
    torch.testing.assert_close(drawn, net.draw(texts, 0, range(4)))


OTHERS = {
    "roberta": lambda: RobertaForSequenceClassification(
        RobertaConfig(**SIZES, pad_token_id=0)
    ),
    "electra": lambda: ElectraForSequenceClassification(
        ElectraConfig(**SIZES, embedding_size=16)
    ),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=50, dim=16, n_layers=2, n_heads=4, hidden_dim=24, num_labels=5,
            max_position_embeddings=32,
        )
    ),
    "a subclass of BERT": lambda: _OtherBert(BertConfig(**SIZES)),
}  # fmt: skip


class _OtherBert(BertForSequenceClassification):
    """Nobody knows what a subclass does."""


@pytest.mark.parametrize("kind", OTHERS)
def test_what_it_does_not_know_runs_as_it_is(kind: str) -> None:
    torch.manual_seed(0)
    model = OTHERS[kind]()
    texts = batch(2, 2, 5)
    with torch.inference_mode():
        net = network(model, ["query", "value", "q_lin", "v_lin"])
        assert net.quick is None
        passed = net.deterministic(texts)
        for row, text in enumerate(texts):
            alone = net.model(input_ids=torch.tensor([text.ids])).logits[0].double()
            torch.testing.assert_close(passed.logits[row], alone, rtol=1e-4, atol=1e-5)


def test_a_model_that_answers_otherwise_is_not_run_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a release of transformers would that changes what a layer does."""
    forward = BertForSequenceClassification.forward

    def changed(self: Any, *args: Any, **options: Any) -> Any:
        found = forward(self, *args, **options)
        found.logits = found.logits + 0.1
        return found

    monkeypatch.setattr(BertForSequenceClassification, "forward", changed)
    assert bert.quick_pass(bert_model().eval()) is None
    assert "does not answer as the model does" in caplog.text


def test_too_few_positions_to_probe() -> None:
    assert bert.quick_pass(bert_model(max_position_embeddings=4).eval()) is None
