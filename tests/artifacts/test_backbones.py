"""Backbones of several architectures: what neither they nor the adapter hold is never made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.artifacts.loading import load_adapter, load_backbone, quiet
from bayeslora_tool.training.recipe import Recipe, read_training_data
from bayeslora_tool.training.trainer import train_adapter
from tests.backbones import SETTINGS, save_backbone

LABELS = ["bad", "good"]
IDS = torch.tensor([[0, 5, 9, 11, 2]])
# What transformers puts on top of a backbone besides the head that PEFT saves unasked.
TOPS = {
    "bert": "bert.pooler",
    "deberta-v2": "pooler",
    "modernbert": "head",
    "distilbert": "pre_classifier",
}


def save_adapter(folder: Path, backbone: Path, targets: Any = "all-linear", **options: Any) -> Path:
    """An adapter with random weights, saved by PEFT."""
    torch.manual_seed(3)
    settings = {"task_type": "SEQ_CLS", "r": 4, "target_modules": targets, "lora_dropout": 0.2}
    with quiet():
        model = get_peft_model(load_backbone(backbone, LABELS), LoraConfig(**settings | options))
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def logits(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = model.eval()(input_ids=IDS).logits
    return answer


def without_pooler(folder: Path) -> Path:
    file = folder / "model.safetensors"
    kept = {key: value for key, value in load_file(file).items() if "pooler" not in key}
    save_file(kept, file, {"format": "pt"})
    return folder


QUERIES = {"distilbert": ["q_lin"], "modernbert": ["Wqkv"], "deberta-v2": ["query_proj"]}


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("adapted", [False, True])
def test_weights_that_nobody_saved_are_refused_by_name(
    kind: str, adapted: bool, tmp_path: Path
) -> None:
    base = without_pooler(save_backbone(tmp_path / "base", kind))
    targets = "all-linear" if adapted else QUERIES.get(kind, ["query"])
    folder = save_adapter(tmp_path / "adapter", base, targets)
    top = TOPS[kind]
    with pytest.raises(
        ValueError, match=rf"{top}\.dense\.weight.* random.*modules_to_save=\['{top}'\]"
    ):
        load_adapter(folder, base=base, labels=LABELS, device="cpu")


@pytest.mark.parametrize("kind", TOPS)
def test_the_same_weights_saved_with_the_adapter_give_one_answer(kind: str, tmp_path: Path) -> None:
    base = without_pooler(save_backbone(tmp_path / "base", kind))
    targets = QUERIES.get(kind, ["query"])
    folder = save_adapter(tmp_path / "adapter", base, targets, modules_to_save=[TOPS[kind]])
    first, second = (
        logits(load_adapter(folder, base=base, labels=LABELS, device="cpu").model) for _ in "12"
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_backbone_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    file = base / "model.safetensors"
    kept = {key: value for key, value in load_file(file).items() if "layer.1." not in key}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 16 of its own weights .*layer\.1"):
        load_backbone(base, LABELS)


@pytest.mark.parametrize("kind", SETTINGS)
def test_training_saves_what_is_new_and_loads_back(
    kind: str, tiny_files: Any, tmp_path: Path
) -> None:
    base = without_pooler(save_backbone(tmp_path / "base", kind))
    targets = [*QUERIES.get(kind, ["query"]), "dense"] if kind in TOPS else "all-linear"
    recipe = Recipe(
        backbone=str(base),
        revision=None,
        rank=4,
        epochs=3,
        max_tokens=24,
        batch_size=4,
        target_modules=targets,
    )
    trained = train_adapter(recipe, read_training_data(recipe, *tiny_files), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    if kind in TOPS:
        assert TOPS[kind] in config["modules_to_save"]
        keys = load_file(tmp_path / "out" / "adapter_model.safetensors")
        assert f"base_model.model.{TOPS[kind]}.dense.weight" in keys or kind == "distilbert"
        assert not [key for key in keys if TOPS[kind] in key and "lora_" in key]
    again = BayesLoRAClassifier.from_pretrained(tmp_path / "out")
    text = ["a good film"]
    assert again.predict(text)[0].variance > 0
    one, other = (c.predict(text)[0].confidence for c in (trained, again))
    assert one == pytest.approx(other, abs=1e-6)
