from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.evaluation import geometry

RATE = 0.3


@pytest.fixture
def layer() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 12), torch.randn(7, 4)


def test_rank_variance_against_sampling(layer: Any) -> None:
    down, up = layer
    x = torch.randn(3, 12)
    masks = (torch.rand(200_000, 1, 4) >= RATE).float() / (1 - RATE)
    sampled = ((masks * (x @ down.T)) @ up.T).var(dim=0)
    torch.testing.assert_close(
        geometry.rank_variance(down, up, x, RATE), sampled, rtol=0.03, atol=0
    )


def test_spectral_bound_holds_and_is_reached(layer: Any) -> None:
    down, up = layer
    x = torch.randn(1000, 12)
    total = geometry.rank_variance(down, up, x, RATE).sum(-1)
    assert (total <= geometry.spectral_bound(down, up, x, RATE)).all()
    # One channel only: the input along A's row reaches the bound.
    down, up = down[:1], up[:, :1]
    total = geometry.rank_variance(down, up, down, RATE).sum(-1)
    torch.testing.assert_close(total, geometry.spectral_bound(down, up, down, RATE))


def test_null_space_has_no_variance_and_all_its_energy_unseen(layer: Any) -> None:
    """Proposition 1."""
    down, up = layer
    basis = torch.linalg.svd(down).Vh
    blind, seen = basis[4:], basis[:4]
    assert geometry.rank_variance(down, up, blind, RATE).max() < 1e-10
    assert geometry.null_energy(down, blind).min() > 1 - 1e-6
    assert geometry.null_energy(down, seen).max() < 1e-6
    mixed = (blind[0] + seen[0])[None]
    assert geometry.null_energy(down, mixed).item() == pytest.approx(0.5, abs=1e-5)


def test_effective_rank_of_known_spectra() -> None:
    assert geometry.effective_rank(torch.ones(5)) == pytest.approx(5)
    assert geometry.effective_rank(torch.tensor([3.0, 0.0])) == pytest.approx(1)


def test_inspect_shows_every_layer(run: Any, tiny_adapter: Path, tiny: Any, tmp_path: Path) -> None:
    picture = tmp_path / "s.png"
    result = run("inspect", str(tiny_adapter), "-o", str(picture))
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Proposition 1 holds" in " ".join(result.output.split())
    layers = geometry.inspect_adapter(tiny, ["a good film", "a bad, poor, dreadful day"])
    assert len(layers) == len(tiny.posterior.widths)
    for g in layers:
        assert 1 <= g.effective_rank <= 4
        assert list(g.singular_values) == sorted(g.singular_values, reverse=True)
        assert 0 <= g.null_energy <= 1
        assert g.sampled == pytest.approx(1, abs=0.2)
        assert 0 < g.bound <= 1
        assert g.null_variance < 1e-9
        wide = g.name.endswith("output.dense") and "attention" not in g.name
        assert g.null_dimensions == pytest.approx(1 - 4 / (64 if wide else 32))


def test_the_formula_holds_under_input_placement_too_and_proposition_1_does_not(
    tiny_adapter: Path,
) -> None:
    clf = BayesLoRAClassifier.from_pretrained(tiny_adapter, placement="input")
    for g in geometry.inspect_adapter(clf, ["a good film"]):
        assert g.sampled == pytest.approx(1, abs=0.2)
        assert 0 < g.bound <= 1
        assert g.null_variance > 0.01
