"""The fused layers against PEFT's own, and the linearization against masks moved by hand."""

from __future__ import annotations

import copy
import gc
import itertools
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from bayeslora_tool.inference import estimators
from bayeslora_tool.inference.fused import fuse
from bayeslora_tool.inference.linearization import linearization
from bayeslora_tool.inference.posterior import AdapterPosterior
from tests.inference.tiny import tiny_lora

RATE = 0.3
CPU = torch.device("cpu")
NOISES = list(itertools.product(["rank", "input"], ["sequence", "token"]))


def fused(model: nn.Module, **options: Any) -> tuple[nn.Module, AdapterPosterior]:
    model = copy.deepcopy(model)
    posterior = AdapterPosterior(model, dropout=RATE, **options)
    fuse(model, posterior)
    return model, posterior


def run(model: nn.Module, posterior: AdapterPosterior, x: Tensor, n: int) -> Tensor:
    with torch.inference_mode(), posterior.draws(0, range(n), len(x)):
        logits: Tensor = model(x.repeat(n, 1, 1))
    return logits


@pytest.mark.parametrize(("placement", "scope"), NOISES)
@pytest.mark.parametrize("options", [{"layers": 2}, {"conv1d": True}, {"lora_bias": True}])
def test_computes_what_peft_computes(placement: Any, scope: Any, options: Any) -> None:
    model = tiny_lora(**options)
    quick, posterior = fused(model, placement=placement, scope=scope)
    x = torch.randn(3, 6, 4)
    torch.testing.assert_close(quick(x), model(x), rtol=1e-5, atol=1e-6)
    reference = AdapterPosterior(model, placement=placement, scope=scope, dropout=RATE)
    torch.testing.assert_close(
        run(quick, posterior, x, 8), run(model, reference, x, 8), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda model, folder: model.set_adapter("other"),
        lambda model, folder: model.base_model.set_adapter("other"),
        lambda model, folder: model.get_submodule("base_model.model.head").set_adapter("other"),
        lambda model, folder: model.add_adapter("third", model.peft_config["default"]),
        lambda model, folder: model.load_adapter(folder, "third"),
        lambda model, folder: model.delete_adapter("other"),
        lambda model, folder: model.disable_adapter().__enter__(),
        lambda model, folder: model.base_model.disable_adapter_layers(),
        lambda model, folder: model.merge_and_unload(),
        lambda model, folder: model.save_pretrained(folder),
        lambda model, folder: get_peft_model_state_dict(model),
        lambda model, folder: set_peft_model_state_dict(
            model, get_peft_model_state_dict(switchable()), adapter_name="default"
        ),
    ],
)
def test_an_adapter_that_is_fused_can_be_neither_switched_nor_saved(
    change: Any, tmp_path: Path
) -> None:
    """PEFT, which finds none of its layers, would switch or save the head alone."""
    model, posterior = fused(switchable())
    x = torch.randn(3, 6, 4)
    before = run(model, posterior, x, 4)
    with pytest.raises(RuntimeError, match=r"this model is fused for inference .*loaded anew"):
        change(model, str(tmp_path))
    assert not list(tmp_path.glob("*.safetensors"))
    torch.testing.assert_close(run(model, posterior, x, 4), before, rtol=0, atol=0)


def switchable() -> Any:
    """A model with two adapters, each with a head of its own."""
    model: Any = tiny_lora(modules_to_save=["head"])
    model.add_adapter("other", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if ".other." in name:
            nn.init.normal_(parameter)
    model.requires_grad_(False)
    return model


def test_rows_of_the_first_layers_are_shared_only_where_no_draw_differs() -> None:
    """A layer fed by the very input of the first one, and one fed by what was masked before."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * self.second(x) + self.second(self.inner(x))

    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(Net(), LoraConfig(r=2, target_modules=["inner", "second"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    quick, posterior = fused(model.eval())
    x = torch.randn(3, 6, 4)
    reference = AdapterPosterior(model, dropout=RATE)
    torch.testing.assert_close(
        run(quick, posterior, x, 5), run(model, reference, x, 5), rtol=1e-4, atol=1e-4
    )


def log_odds(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1:].logsumexp(dim=1)


def linearize(model: nn.Module, posterior: AdapterPosterior, x: Tensor, **options: Any) -> Tensor:
    with linearization(posterior, len(x), CPU, **options) as noise:
        torch.autograd.grad(log_odds(model(x)).sum(), noise.anchor, allow_unused=True)
    return noise.total


def by_finite_differences(
    model: nn.Module, x: Tensor, *, placement: str, scope: str, variance: dict[str, Tensor]
) -> Tensor:
    """Sum of v_j (dl/dm_j)^2 with each mask moved by hand, in float64, on PEFT's own layers."""
    model, x = copy.deepcopy(model).double(), x.double()
    total = torch.zeros(len(x), dtype=torch.float64)
    for name in variance:
        layer = model.get_submodule(name).lora_A["default"]
        width = layer.out_features if placement == "rank" else layer.in_features
        positions = range(x.shape[1]) if scope == "token" else [slice(None)]
        for position, channel in itertools.product(positions, range(width)):
            sides = []
            for step in (1e-4, -1e-4):
                mask = torch.ones(x.shape[1], width, dtype=torch.float64)
                mask[position, channel] += step
                handle = (
                    layer.register_forward_hook(lambda m, a, h, mask=mask: h * mask)
                    if placement == "rank"
                    else layer.register_forward_pre_hook(lambda m, a, mask=mask: a[0] * mask)
                )
                with torch.no_grad():
                    sides.append(log_odds(model(x)))
                handle.remove()
            slope = (sides[0] - sides[1]) / 2e-4
            total += variance[name][channel] * slope.square()
    return total


@pytest.mark.parametrize(("placement", "scope"), NOISES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_linearized_variance_against_finite_differences(
    placement: Any, scope: Any, per_channel: bool
) -> None:
    model = tiny_lora(layers=2)
    quick, posterior = fused(model, placement=placement, scope=scope)
    x = torch.randn(3, 5, 4)
    variance = {name: torch.full((n,), RATE / (1 - RATE)) for name, n in posterior.widths.items()}
    options: dict[str, Any] = {}
    if per_channel:
        variance = {name: torch.rand(n) for name, n in posterior.widths.items()}
        options = {"noise_variance": variance}
    expected = by_finite_differences(model, x, placement=placement, scope=scope, variance=variance)
    got = linearize(quick, posterior, x, **options)
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-7)
    alone = linearize(quick, posterior, x[1:2], **options)
    torch.testing.assert_close(alone, got[1:2], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("placement", "scope"), NOISES)
def test_projected_draws_are_the_draws_where_the_output_is_linear(
    placement: Any, scope: Any
) -> None:
    model = tiny_lora(rank=4, linear=True)
    quick, posterior = fused(model, placement=placement, scope=scope)
    x = torch.randn(3, 6, 4)
    with linearization(posterior, 3, CPU, keep=True) as noise:
        plain = quick(x)[:, 0]
        torch.autograd.grad(plain.sum(), noise.anchor, allow_unused=True)
    drawn = run(quick, posterior, x, 5).reshape(5, 3, -1)[:, :, 0]
    change = posterior.project(noise.gradients, 0, range(5))
    torch.testing.assert_close(plain + change.float(), drawn, rtol=1e-4, atol=1e-5)
    gradients = {name: gradient[1:2] for name, gradient in noise.gradients.items()}
    some = posterior.project(gradients, 0, range(2, 4))
    torch.testing.assert_close(some, change[2:4, 1:2])


def test_exact_where_the_output_is_linear_in_the_mask() -> None:
    """Against the variance over all 2^r masks."""
    model = tiny_lora(rank=4, linear=True)
    quick, posterior = fused(model)
    x = torch.randn(2, 6, 4)
    with linearization(posterior, 2, CPU) as noise:
        torch.autograd.grad(quick(x)[:, 0].sum(), noise.anchor, allow_unused=True)
    layer, net = model.base_model.model.inner, model.base_model.model
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    outputs, weights = [], []
    for bits in itertools.product([0, 1], repeat=4):
        update = (x @ a.T * torch.tensor(bits) / (1 - RATE)) @ b.T * layer.scaling["default"]
        outputs.append(net.head((layer.base_layer(x) + update).mean(1))[:, 0].double())
        weights.append((1 - RATE) ** sum(bits) * RATE ** (4 - sum(bits)))
    f, w = torch.stack(outputs), torch.tensor(weights, dtype=torch.float64)[:, None]
    exact = (w * (f - (w * f).sum(0)).square()).sum(0)
    torch.testing.assert_close(noise.total.double(), exact, rtol=1e-4, atol=0)


def test_null_space_input_has_zero_variance_under_rank_placement() -> None:
    model = tiny_lora(rank=2)
    with torch.no_grad():
        model.base_model.model.inner.lora_A["default"].weight.copy_(
            torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
        )
    x = torch.tensor([1.0, -1.0, 2.0, -2.0]).expand(1, 5, 4)
    assert linearize(*fused(model, placement="rank"), x).item() == 0
    assert linearize(*fused(model, placement="input"), x).item() > 1e-6


def test_moments_are_close_to_sampled_ones_where_masks_change_little() -> None:
    """Two adapted layers behind a tanh, a mild adapter; 40,000 draws are the answer."""
    model = tiny_lora(layers=2, rank=8)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.mul_(0.1)
    quick, posterior = fused(model)
    x = torch.randn(4, 6, 4)
    with torch.inference_mode(), posterior.draws(0, range(40_000), 4):
        draws = quick(x.repeat(40_000, 1, 1)).double().softmax(-1).reshape(40_000, 4, -1)
    expected = estimators.monte_carlo(draws)
    logits = quick(x).double()
    best = logits.argmax(1)
    with linearization(posterior, 4, CPU) as noise:
        p = quick(x).softmax(-1).gather(1, best[:, None])[:, 0]
        torch.autograd.grad(torch.logit(p).sum(), noise.anchor, allow_unused=True)
    got = estimators.linearized(logits.softmax(-1), noise.total.double())
    rows = torch.arange(4)
    torch.testing.assert_close(got.mean, expected.mean, rtol=0, atol=0.01)
    torch.testing.assert_close(
        got.variance[rows, best], expected.variance[rows, best], rtol=0.15, atol=0
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "holds nothing for base_model.model.inner"), ("short", r"shape \(2,\).*\(3,\)")],
)
def test_noise_variance_that_does_not_fit_is_refused(given: Any, message: str) -> None:
    _, posterior = fused(tiny_lora())
    given = {name: torch.ones(2) for name in posterior.widths} if given == "short" else given
    with (
        pytest.raises(ValueError, match=message),
        linearization(posterior, 1, CPU, noise_variance=given),
    ):
        pass


@pytest.mark.slow
def test_leaves_no_gradients_and_does_not_grow(tiny: Any) -> None:
    texts = ["a good film", "a bad, poor, dreadful story about a house"]
    for _ in range(20):
        tiny.predict(texts, estimator="linearized")
    assert all(p.grad is None and not p.requires_grad for p in tiny.network.model.parameters())
    gc.collect()
    objects, memory = len(gc.get_objects()), psutil.Process().memory_info().rss
    for _ in range(1000):
        tiny.predict(texts, estimator="linearized")
    gc.collect()
    assert len(gc.get_objects()) - objects < 200
    assert psutil.Process().memory_info().rss - memory < 20e6
    (p, _) = tiny.predict(texts, estimator="deterministic")
    assert torch.is_grad_enabled()
    assert p.variance != p.variance  # NaN: no linearization lingers
