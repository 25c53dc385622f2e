from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.distance import mahalanobis
from scipy.stats import linregress

from bayeslora_tool.inference.novelty import Novelty, fit_novelty
from bayeslora_tool.policy import Policy, decide
from tests.fakes import make_prediction


def fit(train: torch.Tensor, labels: torch.Tensor, *held_out: torch.Tensor) -> Novelty:
    """From features of one hidden state."""
    return fit_novelty(train[:, None], labels, held_out[0][:, None], held_out[1])


def nine_tokens(x: torch.Tensor) -> torch.Tensor:
    return torch.full((len(x),), 9.0)


def blobs(n: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.arange(n) % 3
    spread = torch.randn(n, 5) @ torch.randn(5, 5)
    return 4 * torch.randn(3, 5)[labels] + spread, labels


def test_distance_is_mahalanobis_to_the_nearest_class() -> None:
    x, labels = blobs()
    novelty = fit(x, labels, x, nine_tokens(x))
    x = x / x.norm(dim=1, keepdim=True)
    means = [x[labels == c].mean(0) for c in range(3)]
    centred = torch.cat([x[labels == c] - means[c] for c in range(3)]).double().numpy()
    covariance = centred.T @ centred / len(x)
    covariance = 0.2 * covariance + 0.8 * np.eye(5) * np.diag(covariance).mean()
    inverse = np.linalg.inv(covariance)
    points = torch.nn.functional.normalize(torch.randn(20, 5), dim=1)
    expected = [min(mahalanobis(p, m, inverse) for m in means) for p in points]
    np.testing.assert_allclose(novelty.absolute(7 * points[:, None]), expected, rtol=1e-2)


def test_distance_counts_in_units_of_what_texts_of_that_length_show() -> None:
    torch.manual_seed(0)
    x, lengths = torch.randn(600, 5), torch.randint(2, 40, (600,)).double()
    novelty = fit(x, torch.arange(600) % 12, x, lengths)
    distance = novelty.absolute(x[:, None]).double()
    line = linregress(lengths.log().numpy(), distance.log().numpy())
    expected = distance / (line.intercept + line.slope * lengths.log()).exp()
    torch.testing.assert_close(novelty.distance(x[:, None], lengths).double(), expected)


def test_percentile_is_uniform_in_distribution_and_one_far_away() -> None:
    x, labels = blobs(6000)
    held_out = x[3000:4500]
    novelty = fit(x[:3000], labels[:3000], held_out, nine_tokens(held_out))
    inside = novelty.percentile(x[4500:, None], nine_tokens(x[4500:]))
    assert abs(float((inside > 0.9).double().mean()) - 0.1) < 0.03
    away = -x[:200].mean(0, keepdim=True)
    one = torch.ones(1)
    assert novelty.percentile(away[:, None], one).item() > 0.98
    assert novelty.percentile(torch.full((1, 1, 5), torch.nan), one).isnan().all()


def test_percentile_means_the_same_at_every_length() -> None:
    """A mean of n tokens spreads as 1 / sqrt(n): by raw distance all long texts would be near."""
    torch.manual_seed(0)
    lengths = torch.tensor([4.0, 16.0, 64.0]).repeat(3000)
    x = torch.cat([torch.randn(9000, 7) / lengths[:, None].sqrt(), torch.full((9000, 1), 30.0)], 1)
    novelty = fit(x, torch.zeros(9000, dtype=torch.long), x, lengths)
    for n in (4, 16, 64):
        of_n = novelty.percentile(x[:, None], lengths)[lengths == n]
        assert abs(float((of_n > 0.9).double().mean()) - 0.1) < 0.05


def test_saves_and_loads(tmp_path: Path) -> None:
    features = torch.randn(600, 5)
    lengths = torch.randint(2, 40, (600,)).double()
    novelty = fit(features, torch.arange(600) % 12, features, lengths)
    novelty.save(tmp_path)
    loaded = Novelty.load(tmp_path).percentile(features[:, None], lengths)
    assert torch.equal(loaded, novelty.percentile(features[:, None], lengths))


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    older = {"held_out": torch.ones(3), "middle.means": torch.ones(2, 4)}  # by view
    save_file(older, tmp_path / "novelty.safetensors")
    with pytest.raises(ValueError, match=r"novelty\.safetensors was fitted by another version"):
        Novelty.load(tmp_path)


def test_features_are_the_means_of_all_hidden_states_and_do_not_depend_on_padding(
    tiny: Any,
) -> None:
    alone = tiny.passes(["a good film"])
    padded = tiny.passes(["a good film", "a much longer text about a house and a car and a day"])
    for name in ("features", "head", "energy"):
        x, y = getattr(alone, name)[0], getattr(padded, name)[0]
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    (text,) = tiny.network.encoder.encode(["a good film"])
    ids = torch.tensor([text.ids])
    states = tiny.network.model(input_ids=ids, output_hidden_states=True).hidden_states
    means = [state[0].mean(0) / state[0].mean(0).norm() for state in states]
    torch.testing.assert_close(alone.features[0], torch.stack(means), rtol=1e-4, atol=1e-5)


def test_head_features_are_what_the_head_reads(tiny: Any) -> None:
    passed = tiny.passes(["a good film", "a bad day"])
    weights = dict(tiny.network.model.named_parameters())
    (weight,) = (w for n, w in weights.items() if n.endswith("modules_to_save.default.weight"))
    (bias,) = (b for n, b in weights.items() if n.endswith("modules_to_save.default.bias"))
    expected = passed.head @ weight.double().T + bias.double()
    torch.testing.assert_close(passed.logits, expected, rtol=0, atol=1e-5)


def test_closes_the_blind_spot_of_zero_variance(tiny_adapter: Any) -> None:
    """With A = 0 no mask changes anything: variance exactly 0, and the text still stands out."""
    from bayeslora_tool import BayesLoRAClassifier

    clf = BayesLoRAClassifier.from_pretrained(tiny_adapter)
    for module in clf.network.model.modules():
        if hasattr(module, "down"):
            module.down.zero_()
    texts = ["a good, fine, lovely film", "Où est la gare ? 42 $ % § 17"]
    for estimator in ("monte_carlo", "linearized"):
        familiar, strange = clf.predict(texts, estimator=estimator)
        assert familiar.variance < 1e-15
        assert strange.variance < 1e-15
        assert familiar.novelty < 1
        assert strange.novelty == 1
        policy = Policy(0.0, 0.25, tau_novelty=0.99, tau_foreign=None)
        assert decide(familiar, policy).action == "proceed"
        decision = decide(strange, policy)
        assert decision.action == "escalate"
        assert "farther from the training texts than 100.0%" in decision.reason


def test_an_unknown_novelty_does_not_pass_a_gate() -> None:
    decision = decide(make_prediction(), Policy(0.5, 0.25, tau_novelty=1.0))
    assert decision.action == "escalate"
    assert "unknown distance" in decision.reason
