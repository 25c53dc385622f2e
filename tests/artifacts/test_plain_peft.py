"""Adapters as PEFT itself saves them: what is plain LoRA loads, and computes what PEFT computes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from bayeslora_tool.artifacts.backbone_model import load_backbone, quiet
from bayeslora_tool.artifacts.loading import load_adapter

IDS = torch.tensor([[101, 2023, 3185, 2001, 2307, 102]])
LABELS = ["bad", "good"]


def save(folder: Path, backbone: Path, **options: Any) -> Path:
    """An adapter with random weights, saved by PEFT."""
    settings = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 12, "target_modules": "all-linear"}
    torch.manual_seed(3)
    model = get_peft_model(load_backbone(backbone, LABELS), LoraConfig(**settings | options))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    with quiet():
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def edit(folder: Path, **changes: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def logits(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = model.eval()(input_ids=IDS).logits
    return answer


def by_peft(folder: Path, backbone: Path) -> torch.Tensor:
    with quiet():
        return logits(PeftModel.from_pretrained(load_backbone(backbone, LABELS), str(folder)))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "names": {"target_modules": ["query", "value", "attention.output.dense"]},
    "an expression": {
        "target_modules": r".*layer\.\d+\.(?:attention\.self\.(query|key)|output\.d\w+e)"
    },
    "exclusion": {"exclude_modules": ["layer.0.intermediate.dense"]},
    "exclusion by expression": {"exclude_modules": r".*layer\.0.*|.*pooler.*"},
    "some layers": {"target_modules": ["query"], "layers_to_transform": [1]},
    "one layer, named": {
        "target_modules": ["query"],
        "layers_to_transform": 1,
        "layers_pattern": "layer",
    },
    "ranks": {"rank_pattern": {r"layer\.0\..*query": 2, "key": 3, "^bert.pooler.dense$": 5}},
    "alphas": {
        "alpha_pattern": {r"layer\.1.*": 7, "query": 1.5},
        "rank_pattern": {"layer.1.attention.self.query": 2},
    },
    "rank-stabilized": {"use_rslora": True, "rank_pattern": {"query": 9}},
    "biases": {"bias": "lora_only", "target_modules": ["query"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "no initialization": {"init_lora_weights": False},
    "no task": {"task_type": None, "modules_to_save": ["classifier"], "target_modules": ["key"]},
    "input dropout": {"lora_dropout": 0.2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_loads_and_computes_what_peft_computes(
    name: str, tiny_backbone: Path, tmp_path: Path
) -> None:
    folder = save(tmp_path / "peft", tiny_backbone, **OPTIONS[name])
    loaded = load_adapter(folder, base=tiny_backbone, labels=LABELS, device="cpu")
    torch.testing.assert_close(logits(loaded.model), by_peft(folder, tiny_backbone))
    assert not any(p.requires_grad for n, p in loaded.model.named_parameters() if "lora_" in n)


def test_half_precision_files_are_read_in_the_precision_of_the_model(
    tiny_backbone: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "peft", tiny_backbone)
    file = folder / "adapter_model.safetensors"
    save_file({key: value.half() for key, value in load_file(file).items()}, file)
    for dtype in (torch.float32, torch.bfloat16):
        model = load_adapter(folder, base=tiny_backbone, dtype=dtype, device="cpu").model
        assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
        assert logits(model).dtype == dtype
    full = load_adapter(folder, base=tiny_backbone, device="cpu").model
    torch.testing.assert_close(logits(full), by_peft(folder, tiny_backbone))


def test_an_initialization_that_leaves_the_backbone_alone_is_not_repeated(
    tiny_backbone: Path, tmp_path: Path
) -> None:
    folder = save(tmp_path / "peft", tiny_backbone)
    expected = by_peft(folder, tiny_backbone)
    edit(folder, init_lora_weights="eva", eva_config={"rho": 2.0, "tau": 0.99})
    loaded = load_adapter(folder, base=tiny_backbone, device="cpu")
    torch.testing.assert_close(logits(loaded.model), expected)


@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_an_initialization_that_changes_the_backbone_is_refused(
    how: str, tiny_backbone: Path, tmp_path: Path
) -> None:
    """PEFT repeats it on loading: without, the same tensors compute something else."""
    folder = save(tmp_path / "peft", tiny_backbone, init_lora_weights=how)
    changed = by_peft(folder, tiny_backbone)
    with pytest.raises(ValueError, match=r"`init_lora_weights.*" + how):
        load_adapter(folder, base=tiny_backbone)
    edit(folder, init_lora_weights=True)
    assert (by_peft(folder, tiny_backbone) - changed).abs().max() > 1e-2


@pytest.mark.parametrize("task", ["TOKEN_CLS", "CAUSAL_LM", "FEATURE_EXTRACTION"])
def test_an_adapter_for_another_task_is_refused(
    task: str, tiny_backbone: Path, tmp_path: Path
) -> None:
    folder = edit(save(tmp_path / "peft", tiny_backbone), task_type=task)
    with pytest.raises(ValueError, match=rf"`task_type` \(='{task}'\).*SEQ_CLS"):
        load_adapter(folder, base=tiny_backbone)


def test_no_code_beside_the_weights_is_imported(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "peft", tiny_backbone)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("evil", "megatron"):
        (folder / f"{name}.py").write_text("raise SystemExit('this code ran')")
    nothing: dict[str, Any] = {"megatron_config": None, "megatron_core": None}
    for changes in (
        {"megatron_config": {"a": 1}, "megatron_core": "evil.core"},
        {"megatron_config": {"a": 1}},
        {"megatron_core": "evil.core"},
    ):
        with pytest.raises(ValueError, match=r"`megatron_co.*more than plain LoRA"):
            load_adapter(edit(folder, **nothing | changes), base=tiny_backbone)
    parent = {"base_model_class": "Evil", "parent_library": "evil"}
    edit(folder, **nothing, auto_mapping=parent, task_type=None)
    load_adapter(folder, base=tiny_backbone)


def test_no_code_of_a_backbone_runs(tiny_backbone: Path, tmp_path: Path) -> None:
    import shutil

    folder = save(tmp_path / "peft", tiny_backbone)
    base = shutil.copytree(tiny_backbone, tmp_path / "base")
    (base / "evil.py").write_text("raise SystemExit('this code ran')")
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = dict.fromkeys(
        ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification"), "evil.Evil"
    )
    (base / "config.json").write_text(json.dumps(config))
    load_adapter(folder, base=base)  # a model that transformers knows is built by transformers
    (base / "config.json").write_text(json.dumps(config | {"model_type": "evil"}))
    with pytest.raises(ValueError, match=r"backbone .* cannot be loaded"):
        load_adapter(folder, base=base)


@pytest.fixture(autouse=True)
def _warnings() -> Any:
    with warnings.catch_warnings():  # PEFT's own, where the tests call PEFT
        warnings.simplefilter("ignore")
        yield
