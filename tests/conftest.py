"""Shared fixtures: fakes, a tiny LoRA model that needs no files, bundled adapters, commands."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from typer.testing import CliRunner, Result

from bayeslora_tool.cli import app, terminal
from bayeslora_tool.policy import Policy
from tests.fakes import FakeClassifier, by_words

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that at the end no worker waits for another's."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(terminal.out, "width", 160)
    monkeypatch.setattr(terminal.err, "width", 160)
    runner = CliRunner()
    return lambda *arguments, **options: runner.invoke(app, [*arguments], **options)


def failed(result: Result, message: str) -> bool:
    return result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr


@pytest.fixture
def policy() -> Policy:
    return Policy(tau_conf=0.8, tau_var=0.01)


@pytest.fixture
def fake() -> FakeClassifier:
    return FakeClassifier(by_words)


@pytest.fixture(scope="session")
def sentiment() -> Any:
    from bayeslora_tool import BayesLoRAClassifier

    return BayesLoRAClassifier.from_preset("sentiment")


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two narrow layers with random weights and the real tokenizer."""
    return make_tiny_backbone(tmp_path_factory.mktemp("backbone"), seed=0)


def make_tiny_backbone(folder: Path, *, seed: int) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from bayeslora_tool.artifacts.backbone import find_backbone
    from bayeslora_tool.artifacts.backbone_model import load_tokenizer, quiet
    from bayeslora_tool.training.recipe import DEFAULT_BACKBONE

    torch.manual_seed(seed)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with quiet():
        BertForSequenceClassification(config).base_model.save_pretrained(folder)
    load_tokenizer(find_backbone(DEFAULT_BACKBONE)).save_pretrained(folder)
    return folder


WORDS = {"good": "a good, fine, lovely {}", "bad": "a bad, poor, dreadful {}"}
THINGS = ["film", "book", "song", "play", "meal", "day", "idea", "story", "car", "house"]


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Labelled texts to train on and to hold out."""
    folder = tmp_path_factory.mktemp("data")
    files = folder / "train.tsv", folder / "held_out.tsv"
    for file, things in zip(files, (THINGS[:7], THINGS[7:]), strict=True):
        rows = [f"{WORDS[label].format(t)}\t{label}" for t in things for label in WORDS]
        file.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return files


@pytest.fixture(scope="session")
def tiny_adapter(
    tiny_backbone: Path, tiny_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An adapter folder that `train_adapter` made on the tiny backbone."""
    from bayeslora_tool.training.recipe import Recipe, read_training_data
    from bayeslora_tool.training.trainer import train_adapter

    recipe = Recipe(
        backbone=str(tiny_backbone),
        revision=None,
        rank=4,
        alpha=16,
        dropout=0.3,
        learning_rate=2e-2,
        head_learning_rate=1e-2,
        epochs=20,
        patience=20,
        batch_size=4,
    )
    folder = tmp_path_factory.mktemp("adapter") / "tiny"
    train_adapter(recipe, read_training_data(recipe, *tiny_files), folder)
    return folder


@pytest.fixture
def adapter_copy(tiny_adapter: Path, tmp_path: Path) -> Path:
    """A copy of the tiny adapter, to damage."""
    return Path(shutil.copytree(tiny_adapter, tmp_path / "copy"))


@pytest.fixture(scope="session")
def tiny(tiny_adapter: Path) -> Any:
    from bayeslora_tool import BayesLoRAClassifier

    return BayesLoRAClassifier.from_pretrained(tiny_adapter)


@pytest.fixture
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the data sets in {SHARED_DATA}")
    return SHARED_DATA
