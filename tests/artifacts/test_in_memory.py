"""A PEFT model in memory answers as from its folder; what cannot be scored is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForTokenClassification

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.artifacts.backbone_model import load_backbone, load_tokenizer, quiet
from tests.artifacts.test_plain_peft import save

TEXTS = ["a good, fine, lovely film", "a poor book", "what a day it was, and what a meal"]
LABELS = ["bad", "good"]


@pytest.fixture
def folder(tiny_backbone: Path, tmp_path: Path) -> Path:
    return save(tmp_path / "peft", tiny_backbone, lora_dropout=0.2)


def held(folder: Path, backbone: Path) -> peft.PeftModel:
    with quiet():
        return peft.PeftModel.from_pretrained(load_backbone(backbone, LABELS), str(folder))


@pytest.mark.parametrize("estimator", ["monte_carlo", "linearized", "deterministic"])
def test_it_answers_as_from_its_folder(estimator: Any, folder: Path, tiny_backbone: Path) -> None:
    model = held(folder, tiny_backbone).train()  # as a training loop leaves it
    tokenizer = load_tokenizer(tiny_backbone)
    taken = BayesLoRAClassifier.from_pretrained(model, tokenizer=tokenizer, labels=LABELS)
    loaded = BayesLoRAClassifier.from_pretrained(folder, base=tiny_backbone, labels=LABELS)
    assert taken.posterior.dropout == pytest.approx(0.2)
    assert taken.scored_by() == loaded.scored_by()
    for p, q in zip(
        taken.predict(TEXTS, estimator=estimator),
        loaded.predict(TEXTS, estimator=estimator),
        strict=True,
    ):
        assert p.label == q.label
        assert p.confidence == pytest.approx(q.confidence, abs=1e-5)
        assert p.variance == pytest.approx(q.variance, rel=1e-3, nan_ok=True)


def test_what_scored_a_text_tells_two_plain_adapters_apart(
    folder: Path, tiny_backbone: Path
) -> None:
    tokenizer, lines = load_tokenizer(tiny_backbone), []
    for part in ("", "lora_B", "classifier", "scaling"):
        model = held(folder, tiny_backbone)
        for module in model.modules():
            if part == "scaling" and isinstance(module, LoraLayer):
                module.scaling["default"] *= 2
        for name, parameter in model.named_parameters():
            if part and part in name and "original_module" not in name:
                parameter.data.mul_(1.001)
        taken = BayesLoRAClassifier.from_pretrained(model, tokenizer=tokenizer, labels=LABELS)
        lines.append(taken.scored_by())
    assert len({*lines}) == 4


def test_its_labels_are_those_of_its_configuration(folder: Path, tiny_backbone: Path) -> None:
    model, tokenizer = held(folder, tiny_backbone), load_tokenizer(tiny_backbone)
    assert BayesLoRAClassifier.from_pretrained(model, tokenizer=tokenizer).labels == (
        "bad", "good",
    )  # fmt: skip


def _second(model: peft.PeftModel) -> None:
    model.add_adapter("other", peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter(["default", "other"])


def _merged(model: peft.PeftModel) -> None:
    model.merge_adapter()


def _disabled(model: peft.PeftModel) -> None:
    model.base_model.disable_adapter_layers()


def _without_dropout(model: peft.PeftModel) -> None:
    for name, module in model.named_modules():
        if name.endswith("lora_dropout.default"):
            module.p = 0.0


def _many_labels(model: peft.PeftModel) -> None:
    model.get_base_model().config.problem_type = "multi_label_classification"


def _other_task(model: peft.PeftModel) -> None:
    model.peft_config["default"].task_type = "TOKEN_CLS"


def _fused(model: peft.PeftModel) -> None:
    from bayeslora_tool.inference.fused import fuse
    from bayeslora_tool.inference.posterior import AdapterPosterior

    fuse(model, AdapterPosterior(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_second, r"active adapters \['default', 'other'\], expected exactly one"),
        (_merged, r"is merged into .*unmerge_adapter"),
        (_disabled, r"is disabled; call model\.enable_adapters"),
        (_without_dropout, r"lora_dropout 0.*dropout=0\.1"),
        (_many_labels, r"BertFor.*`problem_type`.*exclude each other"),
        (_other_task, r"BertFor.*'TOKEN_CLS' has another task"),
        (_fused, r"layers are gone: .*fused by another BayesLoRAClassifier; load the adapter anew"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_scored_is_refused(
    change: Callable[[Any], None], message: str, folder: Path, tiny_backbone: Path
) -> None:
    model = held(folder, tiny_backbone)
    change(model)
    with pytest.raises(ValueError, match=message):
        BayesLoRAClassifier.from_pretrained(model, tokenizer=load_tokenizer(tiny_backbone))


def test_a_model_for_another_task_is_refused(tiny_backbone: Path) -> None:
    with quiet():
        base = AutoModelForTokenClassification.from_pretrained(tiny_backbone)
        model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match="BertForTokenClassification with task_type=None has anot"):
        BayesLoRAClassifier.from_pretrained(model, tokenizer=load_tokenizer(tiny_backbone))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": ["a", "b", "c"]}, ValueError, "has 2 classes, but 3 different labels"),
        ({"labels": "no"}, TypeError, "must be a list of names"),
        ({"tokenizer": None}, TypeError, r"`tokenizer` \(=None\) must be that of the model"),
        ({"device": "cpu"}, ValueError, "`device` is for an adapter on disk"),
        ({"dtype": torch.bfloat16}, ValueError, "`dtype` is for an adapter on disk"),
        ({"base": "somewhere"}, ValueError, "`base` is for an adapter on disk"),
        ({"revision": "main"}, ValueError, "`revision` is for an adapter on disk"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], error: type[Exception], message: str, folder: Path, tiny_backbone: Path
) -> None:
    given = {"tokenizer": load_tokenizer(tiny_backbone)} | options
    with pytest.raises(error, match=message):
        BayesLoRAClassifier.from_pretrained(held(folder, tiny_backbone), **given)


def test_a_model_without_adapter_and_a_tokenizer_for_a_folder_are_refused(
    folder: Path, tiny_backbone: Path
) -> None:
    tokenizer = load_tokenizer(tiny_backbone)
    bare: Any = load_backbone(tiny_backbone, LABELS)
    with pytest.raises(TypeError, match=r"got BertForSequenceClassification; wrap .*PeftModel"):
        BayesLoRAClassifier.from_pretrained(bare, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="`tokenizer` is for a model in memory"):
        BayesLoRAClassifier.from_pretrained(folder, tokenizer=tokenizer, base=tiny_backbone)


def test_a_tokenizer_with_words_the_model_does_not_have_is_refused(
    folder: Path, tiny_backbone: Path
) -> None:
    tokenizer = load_tokenizer(tiny_backbone)
    tokenizer.add_tokens(["supercalifragilistic"])
    with pytest.raises(ValueError, match=r"tokenizer given for BertFor.* knows 30523 tokens"):
        BayesLoRAClassifier.from_pretrained(held(folder, tiny_backbone), tokenizer=tokenizer)


@pytest.fixture(autouse=True)
def _warnings() -> Iterator[None]:
    with warnings.catch_warnings():  # PEFT's own, where the tests call PEFT
        warnings.simplefilter("ignore")
        yield
