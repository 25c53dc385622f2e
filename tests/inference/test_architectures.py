"""Each number beside brute force, on tiny random models of many architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoModelForSequenceClassification

from bayeslora_tool.artifacts.backbone_model import quiet
from bayeslora_tool.artifacts.manifest import SelfCheck
from bayeslora_tool.inference import self_check
from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.estimators import log_odds
from bayeslora_tool.inference.linearization import Linearization
from bayeslora_tool.inference.network import Network
from bayeslora_tool.inference.posterior import AdapterPosterior
from bayeslora_tool.inference.self_check import checked_network
from tests.backbones import FAMILIES, settings_of

pytestmark = pytest.mark.slow  # twenty-three models, each tried in many ways

RATE = 0.2
SCOPES = ["sequence", "token"]
PLACEMENTS = ["rank", "input"]


class _Encoder:
    """What a network needs of one: a token id a word."""

    pad_id = 1

    def encode(self, texts: Any) -> list[Encoded]:
        return [text(i, *(4 + _number(w) % 46 for w in t.split())) for i, t in enumerate(texts)]

    def tensors(self, batch: Any) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(text.ids) for text in batch]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        return ids, (ids != self.pad_id).long()


def _number(word: str) -> int:
    return sum(ord(c) * (i + 1) for i, c in enumerate(word))


def text(position: int, *ids: int) -> Encoded:
    return Encoded(position, [0, *ids, 2], False, 0.0)


BATCH = [
    text(0, 7), text(1, 9, 4, 31, 3), text(2, 8, 8, 11, 40), text(3, *range(10, 18)),
    text(4, *range(20, 31)),
]  # fmt: skip


def adapted(kind: str, *, spread: float = 0.3) -> Any:
    """With LoRA of random weights on all its linear layers."""
    torch.manual_seed(0)
    config = settings_of(kind, 50)
    config.num_labels, config.pad_token_id = 4, _Encoder.pad_id
    with quiet():
        peft = get_peft_model(
            AutoModelForSequenceClassification.from_config(config),
            LoraConfig(
                task_type="SEQ_CLS", r=3, lora_alpha=6, lora_dropout=RATE,
                target_modules="all-linear",
                # PEFT saves it whole as well, and can do but one.
                exclude_modules=["pre_classifier"] if kind == "distilbert" else None,
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
@pytest.mark.parametrize("kind", FAMILIES)
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


def weights(peft: Any, posterior: AdapterPosterior, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """PEFT's A of each layer times its mask, as ``W + s B diag(m) A`` or ``W + s B A diag(m)``."""
    layers = {name: peft.get_submodule(f"{name}.lora_A.default") for name in posterior.widths}
    return {
        f"{name}.lora_A.default.weight": layer.weight
        * (masks[name][:, None] if posterior.placement == "rank" else masks[name])
        for name, layer in layers.items()
    }


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_draw_is_one_weight_matrix_and_the_variance_is_autograds(
    kind: str, placement: Any
) -> None:
    """PEFT's own layers with the masks put into their weights, nothing hooked, nothing fused."""
    peft = adapted(kind).requires_grad_(False)
    posterior = AdapterPosterior(peft, dropout=RATE, placement=placement)
    network, _ = checked(kind, placement=placement)
    drawn, found = network.draw(BATCH, 3, range(2)), network.linearize(BATCH)
    for row, one in enumerate(BATCH[:3]):
        ids = {"input_ids": torch.tensor([one.ids])}
        for t in range(2):
            masks = {
                name: posterior._sequence_masks(name, 3, range(t, t + 1), torch.device("cpu"))[0]
                for name in posterior.widths
            }
            logits = functional_call(peft, weights(peft, posterior, masks), (), ids).logits
            torch.testing.assert_close(
                drawn[t, row], logits[0].double().softmax(-1), rtol=1e-3, atol=1e-5
            )
        ones = {n: torch.ones(w, requires_grad=True) for n, w in posterior.widths.items()}
        logits = functional_call(peft, weights(peft, posterior, ones), (), ids).logits.double()
        odds = log_odds(logits.softmax(-1), logits.argmax(-1))
        slopes = torch.autograd.grad(odds.sum(), [*ones.values()], allow_unused=True)
        squares = sum(float(s.double().square().sum()) for s in slopes if s is not None)
        assert float(found.variance[row]) == pytest.approx(
            RATE / (1 - RATE) * squares, rel=2e-3, abs=1e-9
        )


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", FAMILIES)
def test_linearized_variance_is_that_of_draws_of_small_noise(kind: str, scope: Any) -> None:
    network, _ = checked(kind, spread=0.15, placement="input", scope=scope)
    texts, n, part = BATCH[1:3], 200, 0.002  # some bend early
    found = network.linearize(texts)
    label = found.passed.logits.argmax(dim=1)
    drawn = log_odds(network.draw(texts, 0, range(n), part), label.expand(n, -1))
    torch.testing.assert_close(found.variance, drawn.var(dim=0) / part**2, rtol=0.35, atol=0)


def test_layers_that_read_no_rows_of_texts_are_found() -> None:
    """Here as in training, where all texts share their masks."""
    found = {kind for kind in FAMILIES if checked(kind)[1].apart}
    ids = torch.tensor([BATCH[2].ids])
    for kind in FAMILIES:
        peft = adapted(kind)
        posterior = AdapterPosterior(peft, dropout=RATE)
        common = posterior.layers_in_common(lambda n, run=peft: run(ids.repeat(n, 1)))  # type: ignore[misc]
        assert bool(common) == (kind in found)
    assert found == {"deberta-v2", "deberta-v3", "deberta", "longformer", "opt"}


class TestRefusals:
    """What a model could do that would make a number wrong is found before the first text."""

    def test_gradients_of_calls_that_are_not_added_up(self, monkeypatch: Any) -> None:
        def last_only(self: Linearization, mask: str, gradient: Tensor) -> None:
            self.gradients.pop(mask, None)
            collect(self, mask, gradient)

        collect = Linearization.collect
        monkeypatch.setattr(Linearization, "collect", last_only)
        with pytest.raises(ValueError, match=r"AlbertFor.*derivatives.*moving the masks"):
            checked("albert")
        checked("roberta")

    def test_layers_taken_for_rows_of_texts(self, monkeypatch: Any) -> None:
        as_it_is = self_check._as_it_is
        monkeypatch.setattr(self_check, "_as_it_is", lambda *given: (as_it_is(*given)[0], False))
        for kind in ("deberta-v3", "longformer", "opt"):
            with pytest.raises(ValueError, match=r"layer .* receives .*the first number"):
                checked(kind)

    def test_a_text_that_reads_its_neighbours(self, monkeypatch: Any) -> None:
        self.changed(monkeypatch, lambda logits, ids: logits + 0.1 * ids.float().var())
        with pytest.raises(ValueError, match=r"RobertaFor.*a text alone differ from those in a b"):
            checked("roberta")

    def test_a_pass_that_is_random(self, monkeypatch: Any) -> None:
        self.changed(monkeypatch, lambda logits, ids: logits + 0.1 * torch.randn(()))
        with pytest.raises(ValueError, match=r"RobertaFor.*differ from those"):
            checked("roberta")

    def test_a_layer_that_is_more_than_its_weight(self, monkeypatch: Any) -> None:
        """Merging reads weights: what is done in a forward of its own is lost."""
        forward = LoraLinear.forward
        monkeypatch.setattr(LoraLinear, "forward", lambda *a, **k: forward(*a, **k) * 2)
        with pytest.raises(ValueError, match=r"RobertaFor.*merged differ from those without"):
            checked("roberta")

    def test_no_number(self, monkeypatch: Any) -> None:
        self.changed(monkeypatch, lambda logits, ids: logits * torch.nan)
        with pytest.raises(ValueError, match=r"RobertaFor.*differ from those"):
            checked("roberta")

    def test_encoder_and_decoder(self) -> None:
        with pytest.raises(ValueError, match=r"BartFor.*has no.*one encoder or one decoder"):
            checked("bart")

    @staticmethod
    def changed(monkeypatch: Any, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        """RoBERTa's logits become something else."""
        forward = hf.RobertaForSequenceClassification.forward

        def other(self: Any, *given: Any, **options: Any) -> Any:
            found = forward(self, *given, **options)
            found.logits = change(found.logits, options["input_ids"])
            return found

        monkeypatch.setattr(hf.RobertaForSequenceClassification, "forward", other)


def test_half_precision_is_checked_loosely() -> None:
    peft = adapted("albert").to(torch.bfloat16)
    posterior = AdapterPosterior(peft, dropout=RATE)
    _, seen = checked_network(peft, posterior, _Encoder())  # type: ignore[arg-type]
    assert 0 < seen.merged < 0.1
    assert seen.slopes is None
