from __future__ import annotations

import itertools
import threading
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bayeslora_tool.inference import estimators
from bayeslora_tool.inference.posterior import AdapterPosterior
from tests.inference.tiny import tiny_lora

RATE = 0.3


def draw(model: nn.Module, posterior: AdapterPosterior, x: Tensor, n: int, seed: int = 0) -> Tensor:
    """Class probabilities (T, B, C), all draws in one pass."""
    with torch.no_grad(), posterior.draws(seed, range(n), len(x)):
        logits = model(x.repeat(n, 1, 1))
    return logits.double().softmax(-1).reshape(n, len(x), -1)


def exact_moments(model: nn.Module, x: Tensor, *, width: int, placement: str) -> tuple[Any, Any]:
    """Mean and variance (B, C) by enumerating every mask of the one LoRA layer.

    Written out without hooks: W x + s B (m * A x), or with the mask on x.
    """
    layer = model.base_model.model.inner
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    net = model.base_model.model
    outputs, weights = [], []
    for bits in itertools.product([0, 1], repeat=width):
        mask = torch.tensor(bits, dtype=torch.float32) / (1 - RATE)
        update = (x @ a.T * mask) @ b.T if placement == "rank" else (x * mask) @ a.T @ b.T
        hidden = torch.tanh(layer.base_layer(x) + layer.scaling["default"] * update)
        outputs.append(net.head(hidden.mean(1)).double().softmax(-1))
        weights.append((1 - RATE) ** sum(bits) * RATE ** (width - sum(bits)))
    p, w = torch.stack(outputs), torch.tensor(weights, dtype=torch.float64)[:, None, None]
    mean = (w * p).sum(0)
    return mean, (w * (p - mean) ** 2).sum(0)


@pytest.mark.parametrize(("placement", "width"), [("rank", 3), ("input", 4)])
@pytest.mark.parametrize("conv1d", [False, True])
def test_monte_carlo_moments_approach_brute_force_over_all_masks(
    placement: Any, width: int, conv1d: bool
) -> None:
    model = tiny_lora(conv1d=conv1d)
    posterior = AdapterPosterior(model, placement=placement, dropout=RATE)
    x = torch.randn(2, 6, 4)
    mean, variance = exact_moments(model, x, width=width, placement=placement)
    n = 20_000
    moments = estimators.monte_carlo(draw(model, posterior, x, n))
    standard_error = (variance / n).sqrt()
    assert (moments.mean - mean).abs().le(5 * standard_error + 1e-6).all()
    torch.testing.assert_close(moments.variance, variance, rtol=0.06, atol=1e-6)


def test_fixed_masks_agree_with_the_layer_written_out() -> None:
    """Each draw equals the forward pass of the weight W + s B diag(m) A."""
    model = tiny_lora()
    posterior = AdapterPosterior(model, dropout=RATE)
    x = torch.randn(2, 6, 4)
    got = draw(model, posterior, x, 8)
    layer = model.base_model.model.inner
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    (name,) = posterior.widths
    masks = posterior._stack(name, 0, range(8), 1, torch.device("cpu"))[:, 0]
    for t in range(8):
        weight = layer.base_layer.weight + layer.scaling["default"] * b @ masks[t].diag() @ a
        hidden = torch.tanh(nn.functional.linear(x, weight, layer.base_layer.bias))
        expected = model.base_model.model.head(hidden.mean(1)).double().softmax(-1)
        torch.testing.assert_close(got[t], expected, rtol=1e-5, atol=1e-6)


def test_null_space_input_has_zero_variance_under_rank_but_not_input_placement() -> None:
    """Proposition 1 of the paper: A x = 0 leaves nothing for a rank mask to change."""
    model = tiny_lora(rank=2)
    a = model.base_model.model.inner.lora_A["default"].weight  # (2, 4)
    with torch.no_grad():
        a.copy_(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]))
    x = torch.tensor([1.0, -1.0, 2.0, -2.0]).expand(1, 5, 4)
    assert (a @ x[0, 0]).eq(0).all()
    rank = draw(model, AdapterPosterior(model, placement="rank", dropout=RATE), x, 64)
    assert rank.var(0).eq(0).all()
    other = draw(model, AdapterPosterior(model, placement="input", dropout=RATE), x, 64)
    assert other.var(0).gt(1e-6).all()


def test_input_token_noise_has_the_distribution_of_peft_dropout_in_train_mode() -> None:
    n = 4000
    model = tiny_lora(dropout=RATE, layers=2)
    x = torch.randn(1, 6, 4)
    ours = draw(model, AdapterPosterior(model, placement="input", scope="token"), x, n)[:, 0]
    torch.manual_seed(1)
    with torch.no_grad():
        peft = model.train()(x.repeat(n, 1, 1)).double().softmax(-1)
    standard_error = (ours.var(0) / n + peft.var(0) / n).sqrt()
    assert (ours.mean(0) - peft.mean(0)).abs().le(4 * standard_error).all()
    torch.testing.assert_close(ours.var(0), peft.var(0), rtol=0.12, atol=1e-6)
    ours_q = np.quantile(ours[:, 0].numpy(), [0.05, 0.25, 0.5, 0.75, 0.95])
    peft_q = np.quantile(peft[:, 0].numpy(), [0.05, 0.25, 0.5, 0.75, 0.95])
    np.testing.assert_allclose(ours_q, peft_q, atol=0.15 * float(peft[:, 0].std()))


@pytest.mark.parametrize("placement", ["rank", "input"])
@pytest.mark.parametrize("scope", ["sequence", "token"])
def test_training_noise_has_the_moments_of_the_draws(placement: Any, scope: Any) -> None:
    n = 4000
    model = tiny_lora()
    posterior = AdapterPosterior(model, placement=placement, scope=scope, dropout=RATE)
    x = torch.randn(1, 6, 4)
    fixed = draw(model, posterior, x, n)[:, 0]
    torch.manual_seed(1)
    with torch.no_grad(), posterior.training_noise(n):
        fresh = model(x.repeat(n, 1, 1)).double().softmax(-1)
    standard_error = (fixed.var(0) / n + fresh.var(0) / n).sqrt()
    assert (fixed.mean(0) - fresh.mean(0)).abs().le(4 * standard_error).all()
    torch.testing.assert_close(fixed.var(0), fresh.var(0), rtol=0.15, atol=1e-6)


@pytest.mark.parametrize("placement", ["rank", "input"])
@pytest.mark.parametrize("scope", ["sequence", "token"])
def test_a_draw_depends_on_seed_and_index_only(placement: Any, scope: Any) -> None:
    model = tiny_lora(layers=2)
    posterior = AdapterPosterior(model, placement=placement, scope=scope, dropout=RATE)
    x = torch.randn(3, 6, 4)
    all_draws = draw(model, posterior, x, 10)
    alone = draw(model, posterior, x[1:2], 10)[:, 0]
    torch.testing.assert_close(alone, all_draws[:, 1], rtol=1e-5, atol=1e-6)
    with torch.no_grad(), posterior.draws(0, range(7, 9), 3):
        later = model(x.repeat(2, 1, 1)).double().softmax(-1).reshape(2, 3, -1)
    torch.testing.assert_close(later, all_draws[7:9], rtol=1e-5, atol=1e-6)
    torch.manual_seed(99)
    assert torch.equal(draw(model, posterior, x, 10), all_draws)
    assert not torch.allclose(draw(model, posterior, x, 10, seed=1), all_draws)
    # A longer text only appends positions.
    (name, *_) = posterior.widths
    short = posterior._stack(name, 0, range(3), 4, torch.device("cpu"))
    assert torch.equal(posterior._stack(name, 0, range(3), 9, torch.device("cpu"))[:, :4], short)


def test_masks_of_layers_draws_and_channels_are_uncorrelated() -> None:
    model = tiny_lora(layers=2, rank=8)
    posterior = AdapterPosterior(model, dropout=RATE)
    first, second = (
        posterior._stack(name, 0, range(4000), 1, torch.device("cpu"))[:, 0].numpy()
        for name in posterior.widths
    )
    correlation = np.corrcoef(np.hstack([first, second, np.roll(first, 1, axis=0)]).T)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    assert abs(first.mean() - 1) < 5 * np.sqrt(RATE / (1 - RATE) / first.size)


def test_without_a_context_the_pass_is_deterministic_and_peft_untouched() -> None:
    model = tiny_lora()
    x = torch.randn(2, 6, 4)
    before = model(x)
    posterior = AdapterPosterior(model, dropout=RATE)
    draw(model, posterior, x, 4)
    assert torch.equal(model(x), before)


def test_noise_in_one_thread_never_reaches_another() -> None:
    model = tiny_lora(layers=2)
    posterior = AdapterPosterior(model, dropout=RATE)
    x = torch.randn(2, 6, 4)
    clean, noisy = model(x), draw(model, posterior, x, 5)
    wrong: list[str] = []

    def noise() -> None:
        for _ in range(100):
            if not torch.equal(draw(model, posterior, x, 5), noisy):
                wrong.append("noisy")

    def plain() -> None:
        for _ in range(300):
            if not torch.equal(model(x), clean):
                wrong.append("clean")

    threads = [threading.Thread(target=f) for f in (noise, plain, noise, plain)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_two_posteriors_on_one_model_do_not_meet() -> None:
    model = tiny_lora()
    x = torch.randn(2, 6, 4)
    low = AdapterPosterior(model, dropout=0.1)
    alone = draw(model, low, x, 6)
    AdapterPosterior(model, dropout=0.5, placement="input")
    assert torch.equal(draw(model, low, x, 6), alone)


def test_bfloat16_backbone_draws_agree_with_float32() -> None:
    model = tiny_lora()
    posterior = AdapterPosterior(model, dropout=RATE)
    x = torch.randn(2, 6, 4)
    expected = draw(model, posterior, x, 16)
    half = model.to(torch.bfloat16)
    got = draw(half, posterior, x.to(torch.bfloat16), 16)
    torch.testing.assert_close(got, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("scope", ["sequence", "token"])
@pytest.mark.parametrize("shape", [(2 * 3 * 6, 4), (7, 2 * 3, 4), (1, 6, 4)])
def test_refuses_rows_that_are_not_those_of_draws_and_texts(scope: Any, shape: Any) -> None:
    model = tiny_lora()
    posterior = AdapterPosterior(model, scope=scope, dropout=RATE)
    layer, x = model.base_model.model.inner, torch.randn(*shape)
    with posterior.draws(0, range(2), 3), pytest.raises(ValueError, match=r"inner .*2 draws of 3"):
        layer(x)


@pytest.mark.parametrize("shape", [(6, 3, 4), (1, 6, 4)])
def test_training_gives_texts_one_mask_in_common_where_none_can_have_its_own(shape: Any) -> None:
    """As a draw does: one weight matrix, W + s B diag(m) A, for all rows."""
    model = tiny_lora()
    posterior = AdapterPosterior(model, dropout=RATE)
    layer, x = model.base_model.model.inner, torch.randn(*shape)
    with posterior.training_noise(3), pytest.raises(ValueError, match=r"inner .*layers_in_common"):
        layer(x)
    (name,) = (name for name in posterior.widths if name.endswith("inner"))
    with posterior.training_noise(3, {name}):
        found = layer(x)
    hidden, up = layer.lora_A.default(x), layer.lora_B.default.weight * layer.scaling["default"]
    on = 1 / (1 - RATE)
    possible = [
        layer.base_layer(x) + hidden * torch.tensor(masks) @ up.T
        for masks in product((0, on), repeat=hidden.shape[-1])
    ]
    assert sum(torch.allclose(found, one, atol=1e-5) for one in possible) == 1


def test_layers_whose_rows_are_no_texts_are_found_by_what_they_receive() -> None:
    model = tiny_lora()
    posterior = AdapterPosterior(model, dropout=RATE)
    layer = model.base_model.model.inner
    shapes: dict[str, Any] = {
        "texts": lambda n: [(n, 5, 4)],
        "a row a token": lambda n: [(n * 5, 4)],
        "tokens first": lambda n: [(5, n, 4)],
        "also positions": lambda n: [(n, 5, 4), (1, 5, 4)],
    }
    found = {
        kind: posterior.layers_in_common(lambda n, sizes=sizes: [  # type: ignore[misc]
            layer(torch.randn(size)) for size in sizes(n)
        ])
        for kind, sizes in shapes.items()
    }  # fmt: skip
    assert {kind for kind, names in found.items() if names} == {*shapes} - {"texts"}


def test_training_keeps_a_mask_over_the_calls_of_a_module() -> None:
    """As the draws do: one mask is one weight."""
    model = tiny_lora()
    posterior = AdapterPosterior(model, dropout=RATE)
    layer, x = model.base_model.model.inner, torch.randn(64, 6, 4)
    plain = layer(x)
    with posterior.training_noise(64):
        first = layer(x)
        assert torch.equal(layer(x), first)
    assert not torch.equal(first, plain)


class TestRefusals:
    def test_no_lora(self) -> None:
        with pytest.raises(ValueError, match="no LoRA layers"):
            AdapterPosterior(nn.Linear(2, 2), dropout=0.1)

    def test_merged(self) -> None:
        model = tiny_lora()
        model.merge_adapter()
        with pytest.raises(ValueError, match="unmerge_adapter"):
            AdapterPosterior(model, dropout=0.1)

    def test_disabled(self) -> None:
        model = tiny_lora()
        model.base_model.disable_adapter_layers()
        with pytest.raises(ValueError, match="enable_adapters"):
            AdapterPosterior(model, dropout=0.1)

    def test_rate_zero_needs_an_explicit_rate(self) -> None:
        with pytest.raises(ValueError, match=r"lora_dropout 0.*dropout=0\.1"):
            AdapterPosterior(tiny_lora())

    def test_reads_the_adapters_own_rate(self) -> None:
        assert AdapterPosterior(tiny_lora(dropout=0.25)).dropout == 0.25

    @pytest.mark.parametrize("rate", [0, 0.0, 1, 1.5, -0.1, float("nan"), "0.1", True])
    def test_rate_out_of_range(self, rate: Any) -> None:
        with pytest.raises(ValueError, match=r"`dropout` .* must be a number in \(0, 1\)"):
            AdapterPosterior(tiny_lora(), dropout=rate)

    def test_dora(self) -> None:
        with pytest.raises(ValueError, match=r"adapter 'default' is made by DoRA"):
            AdapterPosterior(tiny_lora(use_dora=True), dropout=0.1)

    def test_several_active_adapters(self) -> None:
        from peft import LoraConfig

        model = tiny_lora()
        model.add_adapter("other", LoraConfig(r=2, target_modules=["inner"]))
        model.base_model.set_adapter(["default", "other"])
        with pytest.raises(ValueError, match="expected exactly one"):
            AdapterPosterior(model, dropout=0.1)

    def test_embedding_layer(self) -> None:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)),
            LoraConfig(r=2, target_modules=["0", "1"]),
        )
        with pytest.raises(ValueError, match="only LoRA on Linear layers"):
            AdapterPosterior(model, dropout=0.1)

    @pytest.mark.parametrize(("name", "value"), [("placement", "output"), ("scope", "batch")])
    def test_unknown_words(self, name: str, value: str) -> None:
        with pytest.raises(ValueError, match=f"`{name}` .*{value}"):
            AdapterPosterior(tiny_lora(), dropout=0.1, **{name: value})  # type: ignore[arg-type]
