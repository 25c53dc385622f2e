from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn.functional import normalize

from bayeslora_tool.inference.neighbours import Neighbours, fit_neighbours, states_read


def texts(n: int, width: int = 60, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features of two states of 20 numbers, classes 0 to 3, embeddings that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2, 20)) + rng.normal(size=(2, 20))
    features = normalize(torch.tensor(x, dtype=torch.float32), dim=2)
    mixed = np.random.default_rng(1).normal(size=(40, width))
    e = features.flatten(1).numpy() @ mixed + 0.3 * rng.normal(size=(n, width)) + 1
    return features, torch.arange(n) % 4, normalize(torch.tensor(e), dim=1)


def fit(n: int = 500, width: int = 60) -> Neighbours:
    features, labels, embeddings = texts(n, width)
    return fit_neighbours(features, torch.arange(2), labels, embeddings)


@pytest.mark.parametrize("width", [10, 60])
def test_is_the_cosine_of_what_ridge_regression_foretells(width: int) -> None:
    features, labels, embeddings = texts(500, width)
    found = fit_neighbours(features, torch.arange(2), labels, embeddings)
    x = features.flatten(1).double().numpy()
    ridge = Ridge(alpha=5 * x.var(axis=0).mean() * len(x)).fit(x, embeddings.numpy())
    new, _, _ = texts(50, width, seed=5)
    middle = embeddings.numpy().mean(axis=0)
    _, _, directions = np.linalg.svd(ridge.predict(x) - middle, full_matrices=False)
    kept = directions[:47].T @ directions[:47]

    def foretold(features: Tensor) -> Any:
        e = (ridge.predict(features.flatten(1).double().numpy()) - middle) @ kept + middle
        return e / np.linalg.norm(e, axis=1, keepdims=True)

    chosen = torch.arange(50) % 4
    cosines = foretold(new) @ foretold(features).T
    expected = [cosines[i, (labels == chosen[i]).numpy()].max() for i in range(50)]
    got = found.similarity(new, chosen)
    spread = np.std(expected)
    np.testing.assert_allclose(got.numpy(), expected, atol=0.1 * spread)


def test_a_text_is_nearest_to_itself_and_a_strange_one_is_far() -> None:
    features, labels, _ = texts(500)
    found = fit()
    assert (found.similarity(features, labels) > 0.999).all()
    assert (found.similarity(-features, labels) < found.similarity(features, labels)).all()
    spoilt = found.similarity(features[:3] * torch.nan, labels[:3])
    assert spoilt.isnan().all()


def test_a_group_has_the_texts_of_all_its_classes() -> None:
    found, (new, _, _) = fit(), texts(30, seed=2)
    both = found.merged(torch.tensor([0, 1, 1, 2]))
    of_each = [found.similarity(new, torch.full((30,), c)) for c in range(4)]
    expected = torch.maximum(of_each[1], of_each[2])
    assert torch.equal(both.similarity(new, torch.full((30,), 1)), expected)
    assert torch.equal(both.similarity(new, torch.full((30,), 2)), of_each[3])


def test_saves_and_loads(tmp_path: Path) -> None:
    found, (new, _, _) = fit(), texts(30, seed=2)
    found.save(tmp_path)
    loaded = Neighbours.load(tmp_path)
    assert loaded is not None
    chosen = torch.arange(30) % 4
    assert torch.equal(loaded.similarity(new, chosen), found.similarity(new, chosen))
    assert Neighbours.load(tmp_path / "elsewhere") is None
    loaded.check_fit(new, 4)
    for features, n_classes in ((new, 5), (new[:, :1], 4), (new[:, :, :7], 4)):
        with pytest.raises(ValueError, match="was fitted to 4 classes and 40 features"):
            loaded.check_fit(features, n_classes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"older": torch.ones(1)}, "another version"),
        ({"texts": torch.zeros(499, 48, dtype=torch.int8)}, "do not fit"),
        ({"offset": torch.zeros(3)}, "do not fit"),
        ({"projection": torch.zeros(48, 41)}, "do not fit"),
        ({"labels": torch.full((500,), -1)}, "out of range"),
        ({"states": torch.tensor([-1, 0])}, "out of range"),
        ({"scale": torch.full((48,), torch.nan)}, "NaN"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    fit().save(tmp_path)
    path = tmp_path / "neighbours.safetensors"
    save_file(load_file(path) | change, path)
    with pytest.raises(ValueError, match=message):
        Neighbours.load(tmp_path)


def test_wide_backbones_are_read_in_some_of_their_states() -> None:
    assert states_read(7, 384).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert states_read(25, 1024).tolist() == [0, 8, 16, 24]
    assert states_read(33, 4096).tolist() == [32]
