"""Quantized backbones: the frozen product stays as it is, and every number is PEFT's own."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

from bayeslora_tool import AdapterHub, AdapterPosterior, BayesLoRAClassifier
from bayeslora_tool.artifacts.backbone_model import load_tokenizer, load_with_new, quiet
from bayeslora_tool.inference.estimators import log_odds
from tests.backbones import save_backbone

pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")
with warnings.catch_warnings():  # torchao's, about itself
    warnings.simplefilter("ignore")
    quantization = pytest.importorskip(
        "torchao.quantization", reason="the extra `quantized` is not installed"
    )

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torchao"),
]

KINDS: dict[str, Callable[[], Any]] = {
    "8 bits": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "4 bits": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "int8": lambda: TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2)),
}
TEXTS = ["good", "a lovely film", "poor bad book a bad day", "fine play a fine day"]
RATE = 0.2


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A backbone, and a plain adapter of random weights that was made on it in full precision."""
    root = tmp_path_factory.mktemp("quantized")
    base = save_backbone(root / "base", "roberta")
    with quiet():
        model = peft(load_with_new(base, ["bad", "good", "so so"])[0])
        model.save_pretrained(root / "adapter", save_embedding_layers=False)
    return base, root / "adapter"


def peft(backbone: PreTrainedModel, seed: int = 1, **options: Any) -> Any:
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=RATE, **options,
        target_modules=["query", "key", "value", "intermediate.dense", "output.dense"],
    )  # fmt: skip
    model = get_peft_model(backbone, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def load(folders: tuple[Path, Path], kind: str, **options: Any) -> BayesLoRAClassifier:
    base, adapter = folders
    return BayesLoRAClassifier.from_pretrained(
        adapter, base=base, device="cpu", quantization_config=KINDS[kind](), **options
    )


def theirs(folders: tuple[Path, Path], kind: str) -> Any:
    """The same adapter as PEFT has it on the quantized backbone, nothing fused."""
    base, adapter = folders
    exact = BayesLoRAClassifier.from_pretrained(adapter, base=base, device="cpu")
    backbone = load_with_new(base, exact.labels, quantization_config=KINDS[kind]())[0]
    model = peft(backbone).train()  # the kernels that have a derivative
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_frozen_product_stays_quantized_and_the_adapter_exact(
    kind: str, folders: tuple[Path, Path]
) -> None:
    classifier = load(folders, kind)
    layers = [classifier.network.model.get_submodule(name) for name in classifier.posterior.widths]
    assert layers
    for layer in layers:
        assert layer.frozen is not None
        assert layer.weight is None
        assert layer.up.dtype == layer.down.dtype == torch.float32
    head = classifier.network.model.base_model.model.classifier
    assert {p.dtype for p in head.parameters()} == {torch.float32}


def probabilities(
    model: Any, posterior: AdapterPosterior, ids: Tensor, draw: int, part: float = 1.0
) -> Tensor:
    """(C,), of one text, as far on the way to the masks of a draw."""
    with torch.no_grad(), posterior.draws(0, range(draw, draw + 1), 1, part):
        logits: Tensor = model(input_ids=ids).logits
    return logits.double().softmax(-1)[0]


@pytest.mark.parametrize("placement", ["rank", "input"])
@pytest.mark.parametrize("scope", ["sequence", "token"])
@pytest.mark.parametrize("kind", KINDS)
def test_passes_draws_and_derivatives_are_those_of_peft(
    kind: str, scope: Any, placement: Any, folders: tuple[Path, Path]
) -> None:
    classifier = load(folders, kind, placement=placement, scope=scope)
    model = theirs(folders, kind)
    posterior = AdapterPosterior(model, placement=placement, scope=scope, dropout=RATE)
    encoder, n = classifier.network.encoder, 3
    drawn = classifier.draw(TEXTS, n_draws=n)
    found = {p: classifier.predict([p], estimator="linearized")[0] for p in TEXTS}
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([encoder.encode([text])[0].ids])
        moved = partial(probabilities, model, posterior, ids)
        plain = moved(0, 0.0)
        torch.testing.assert_close(
            classifier.passes([text]).probabilities[0], plain, rtol=1e-3, atol=1e-5
        )
        for draw in range(n):
            torch.testing.assert_close(drawn[draw, row], moved(draw), rtol=1e-3, atol=1e-5)
        # What moves the masks a little moves PEFT's log-odds by the derivatives.
        network, label = classifier.network, plain.argmax()
        linear = network.linearize(encoder.encode([text]), keep=True)
        change = network.posterior.project(linear.gradients, 0, range(n))[:, 0]
        for draw in range(n):
            ahead, back = (log_odds(moved(draw, way), label) for way in (0.002, -0.002))
            deviation = float(linear.variance.sqrt())
            assert float(ahead - back) / 0.004 == pytest.approx(
                float(change[draw]), abs=0.05 * deviation
            )
        assert found[text].variance > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_comes_out_the_same_in_any_company(kind: str, folders: tuple[Path, Path]) -> None:
    classifier = load(folders, kind)
    for estimator in ("linearized", "monte_carlo"):
        together = classifier.predict(TEXTS, estimator=estimator)
        for text, one in zip(TEXTS, together, strict=True):
            alone = classifier.predict([text], estimator=estimator)[0]
            assert alone.confidence == pytest.approx(one.confidence, abs=1e-5)
            assert alone.variance == pytest.approx(one.variance, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_a_hub_share_it_and_answer_as_alone(
    kind: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = folders
    found = {"one": adapter}
    for name, bias in (("other", "none"), ("biased", "lora_only")):
        found[name] = tmp_path / name
        with quiet():
            other = peft(load_with_new(base, ["no", "yes"])[0], seed=2, bias=bias)
            other.save_pretrained(found[name], save_embedding_layers=False)
    hub = AdapterHub(base, device="cpu", quantization_config=KINDS[kind]())
    for name, folder in found.items():
        hub.add(name, folder)
    layers = [
        {c.network.model.get_submodule(n).frozen for n in c.posterior.widths} for c in hub.values()
    ]
    assert layers[0] == layers[1]
    assert not layers[0] & layers[2]  # whose biases were trained
    tasks = [(name, text) for text in TEXTS for name in hub]
    for _ in range(2):  # a pass leaves nothing changed
        together = hub.predict(tasks, estimator="linearized")
        for (name, text), p in zip(tasks, together, strict=True):
            alone = load((base, found[name]), kind).predict([text], estimator="linearized")[0]
            by_itself = hub[name].predict([text], estimator="linearized")[0]
            for q in (alone, by_itself):
                assert p.probabilities == pytest.approx(q.probabilities, abs=1e-5)
                assert p.variance == pytest.approx(q.variance, rel=1e-3, abs=1e-9)


def test_what_is_calibrated_for_one_backbone_is_not_for_the_same_quantized(
    folders: tuple[Path, Path],
) -> None:
    base, adapter = folders
    exact = BayesLoRAClassifier.from_pretrained(adapter, base=base, device="cpu")
    lines = {exact.scored_by(), *(load(folders, kind).scored_by() for kind in KINDS)}
    assert len(lines) == 4


def test_four_bits_that_were_packed_for_inference_are_refused(folders: tuple[Path, Path]) -> None:
    model = theirs(folders, "4 bits").eval()
    packed = copy.deepcopy(model)
    for module in packed.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            state.packing_format_for_cpu = True
    posterior = AdapterPosterior(packed, dropout=RATE)
    tokenizer = load_tokenizer(folders[0])
    with pytest.raises(ValueError, match="was run in eval mode, which packs its 4 bits"):
        BayesLoRAClassifier(packed, tokenizer, ["bad", "good", "so so"], posterior)
