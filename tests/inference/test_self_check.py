"""What was found of a model stands beside its adapter; where anything differs it is tried anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.artifacts.manifest import bundled_adapters, read_manifest
from bayeslora_tool.inference import self_check
from bayeslora_tool.inference.network import Network
from tests.artifacts.test_plain_peft import save


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for each time that a model is tried."""
    times: list[str] = []
    as_it_is = self_check._as_it_is

    def counted(model: Any, *rest: Any) -> Any:
        times.append(type(model.get_base_model()).__name__)
        return as_it_is(model, *rest)

    monkeypatch.setattr(self_check, "_as_it_is", counted)
    return times


def test_what_training_found_is_recorded_and_not_tried_again(
    tiny_adapter: Path, tried: list[str]
) -> None:
    manifest = read_manifest(tiny_adapter)
    assert manifest is not None
    assert manifest.self_check is not None
    assert manifest.self_check.merged < 1e-4
    assert 0 < manifest.self_check.seconds < 60
    clf = BayesLoRAClassifier.from_pretrained(tiny_adapter, device="cpu")
    assert clf.self_check == manifest.self_check
    assert not tried


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": torch.bfloat16},
        {"placement": "input"},
        {"scope": "token"},
        {"dropout": 0.25},
    ],
    ids=str,
)
def test_another_precision_or_noise_is_tried_anew(
    change: dict[str, Any], tiny_adapter: Path, tried: list[str]
) -> None:
    clf = BayesLoRAClassifier.from_pretrained(tiny_adapter, device="cpu", **change)
    assert len(tried) == 1
    assert clf.self_check != clf.manifest.self_check  # type: ignore[union-attr]


@pytest.mark.parametrize("package", ["torch", "transformers", "peft"])
def test_another_version_is_tried_anew_and_a_fault_in_it_found(
    package: str, tiny_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is below what golden predictions tell: only the trial shows it."""
    draw = Network.draw

    def wrong(self: Network, batch: Any, seed: int, draws: range, part: float = 1.0) -> Any:
        return draw(self, batch, seed, draws, part if part == 1 else 1.5 * part)

    monkeypatch.setattr(Network, "draw", wrong)
    BayesLoRAClassifier.from_pretrained(tiny_adapter, device="cpu")
    version = self_check.version
    monkeypatch.setattr(
        self_check, "version", lambda name: "99.0" if name == package else version(name)
    )
    with pytest.raises(ValueError, match=r"BertFor.*derivatives.*moving the masks"):
        BayesLoRAClassifier.from_pretrained(tiny_adapter, device="cpu")


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_an_adapter_is_not_refused_for_its_strength(
    rate: float, tiny_backbone: Path, tmp_path: Path
) -> None:
    """Its log-odds deviate by hundreds, and bend within a hundredth of the way to the masks."""
    folder = save(tmp_path / "strong", tiny_backbone)
    clf = BayesLoRAClassifier.from_pretrained(folder, base=tiny_backbone, dropout=rate)
    assert clf.network.linearize(clf.network.encoder.encode(["no"])).variance.sqrt() > 100
    assert clf.self_check.slopes is not None
    assert clf.self_check.slopes < 0.1


@pytest.mark.parametrize("build", ["2.13.0", "2.13.0+cpu", "2.13.0+cu130"])
def test_builds_of_one_version_are_alike(
    build: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "version", lambda name: build)
    under = self_check._conditions(tiny.network.model, tiny.posterior, merge=True)
    assert under.startswith("torch 2.13.0, transformers 2.13.0, peft 2.13.0, c")


@pytest.mark.parametrize("name", bundled_adapters())
def test_the_bundled_adapters_are_as_recorded_under_the_versions_installed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = BayesLoRAClassifier.from_pretrained(name, device="cpu")
    record = recorded.manifest.self_check  # type: ignore[union-attr]
    assert record is not None
    assert recorded.self_check is record, (
        f"recorded under {record.under}: try it anew (leave self_check out of bayeslora.json) and "
        f"write classifier.self_check there"
    )
    monkeypatch.setattr(self_check, "_conditions", lambda *given, **options: "elsewhere")
    found = BayesLoRAClassifier.from_pretrained(name, device="cpu").self_check
    assert found is not record
    assert found.slopes == pytest.approx(record.slopes, rel=0.2)
    assert max(found.merged, found.alone) < 1e-5
