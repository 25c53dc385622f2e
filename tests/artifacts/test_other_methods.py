"""PEFT's other methods, as PEFT saves them and as it holds them: each is refused by its name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest

from bayeslora_tool.artifacts.backbone_model import load_backbone, quiet
from bayeslora_tool.artifacts.loading import load_adapter
from bayeslora_tool.inference.posterior import AdapterPosterior

LAYERS: dict[str, Any] = {"target_modules": ["query", "value"]}
METHODS: dict[str, tuple[str, Callable[[], Any]]] = {
    "LoHa": ("elementwise product", lambda: peft.LoHaConfig(r=2, **LAYERS)),
    "LoKr": ("Kronecker", lambda: peft.LoKrConfig(r=2, **LAYERS)),
    "IA3": (
        "scales activations",
        lambda: peft.IA3Config(target_modules=["key", "value"], feedforward_modules=[]),
    ),
    "VeRA": ("shared by all layers", lambda: peft.VeraConfig(r=2, **LAYERS)),
    "AdaLoRA": (
        "prunes ranks",
        lambda: peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, **LAYERS),
    ),
    "DoRA": ("norm of W", lambda: peft.LoraConfig(r=2, use_dora=True, **LAYERS)),
    "PREFIX TUNING": (
        "no weight changes",
        lambda: peft.PrefixTuningConfig(num_virtual_tokens=2, prefix_projection=False),
    ),
    "PROMPT TUNING": (
        "no weight changes",
        lambda: peft.PromptTuningConfig(num_virtual_tokens=2),
    ),
    "P TUNING": ("no weight changes", lambda: peft.PromptEncoderConfig(num_virtual_tokens=2)),
    "OFT": ("update of the weights", lambda: peft.OFTConfig(oft_block_size=4, **LAYERS)),
}


def made(name: str, backbone: Path) -> Any:
    config = METHODS[name][1]()
    config.task_type = peft.TaskType.SEQ_CLS
    with quiet():
        return peft.get_peft_model(load_backbone(backbone, ["bad", "good"]), config).eval()


@pytest.mark.parametrize("name", METHODS)
def test_in_memory(name: str, tiny_backbone: Path) -> None:
    why = METHODS[name][0]
    with pytest.raises(ValueError, match=rf"adapter 'default' is .* by {name}, .*{why}.*LoraConf"):
        AdapterPosterior(made(name, tiny_backbone), dropout=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_in_a_folder(name: str, tiny_backbone: Path, tmp_path: Path) -> None:
    with quiet():
        made(name, tiny_backbone).save_pretrained(tmp_path)
    why = METHODS[name][0]
    with pytest.raises(ValueError, match=rf"config.json is .* by {name}, .*{why}.*LoraConfig"):
        load_adapter(tmp_path, base=tiny_backbone)


def test_layers_that_were_merged_away(tiny_backbone: Path) -> None:
    model = peft.get_peft_model(
        load_backbone(tiny_backbone, ["bad", "good"]), peft.LoraConfig(r=2, **LAYERS)
    )
    model.merge_and_unload()
    with pytest.raises(ValueError, match=r"LoRA layers are gone: merged"):
        AdapterPosterior(model, dropout=0.1)


@pytest.fixture(autouse=True)
def _warnings() -> Iterator[None]:
    with warnings.catch_warnings():  # PEFT's own, where the tests call PEFT
        warnings.simplefilter("ignore")
        yield
