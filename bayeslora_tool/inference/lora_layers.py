"""Which LoRA layers a dropout posterior can sit on, and at what rate."""

from __future__ import annotations

import sys

from peft.import_utils import is_bnb_available
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import nn

from bayeslora_tool.artifacts.other_methods import check_method


def _linear_kinds() -> tuple[type[LoraLayer], ...]:
    """PEFT's layers of LoRA on a linear layer: plain or torchao's, and of bitsandbytes if there."""
    if not (is_bnb_available() and "bitsandbytes" in sys.modules):  # no layer can be of its kind
        return (LoraLinear,)
    from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt

    return LoraLinear, Linear8bitLt, Linear4bit


def check_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """A model's LoRA layers by name, if a posterior over its one adapter's weights can sit on them.

    Args:
        model: That holds them.

    Raises:
        ValueError: There is none, or it is of a kind that does not use ``lora_A`` alone; see
            ``AdapterPosterior``.
    """
    known = getattr(model, "peft_config", {})
    for name, config in known.items():
        settings = {
            "peft_type": config.peft_type.value, "use_dora": getattr(config, "use_dora", False),
        }  # fmt: skip
        check_method(settings, f"adapter {name!r}")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    if not layers and known:
        raise ValueError(
            "the model's LoRA layers are gone: merged into its weights (merge_and_unload), or "
            "fused by another BayesLoRAClassifier; load the adapter anew for each"
        )
    if not layers:
        raise ValueError(
            "the model has no LoRA layers, so there is no adapter posterior; "
            "load a PEFT LoRA adapter onto it (PeftModel.from_pretrained) or train one"
        )
    for name, layer in layers.items():
        if layer.merged:
            raise ValueError(
                f"the adapter is merged into {name}, so its draws would change nothing; "
                f"call model.unmerge_adapter(), or load the adapter without merge_and_unload()"
            )
        if layer.disable_adapters:
            raise ValueError(f"the adapter of {name} is disabled; call model.enable_adapters()")
        active = [a for a in layer.active_adapters if a in layer.lora_variant or a in layer.r]
        if len(active) != 1 or len(layer.active_adapters) != 1:
            raise ValueError(
                f"{name} has active adapters {list(layer.active_adapters)}, expected exactly one; "
                f"call model.set_adapter(name)"
            )
        variant = layer.lora_variant.get(active[0])
        if variant is not None:
            raise ValueError(
                f"{name} uses {type(variant).__name__}, which bypasses lora_A, so dropout on it "
                f"is not the BayesLoRA posterior; train the adapter as plain LoRA (use_dora=False)"
            )
        if not isinstance(layer, _linear_kinds()) or active[0] not in layer.lora_A:
            raise ValueError(
                f"{name} is a LoRA layer of kind {type(layer).__module__}.{type(layer).__name__}; "
                f"only LoRA on Linear layers is supported: leave it out of target_modules"
            )
    return layers


def check_rate(layers: dict[str, LoraLayer], dropout: float | None) -> float:
    """The rate of the noise, in (0, 1).

    Args:
        layers: From :func:`check_layers`.
        dropout: None reads the layers' own.

    Raises:
        ValueError: It is out of range, or the layers name none, or several.
    """
    if dropout is None:
        rates = {
            float(getattr(layer.lora_dropout[layer.active_adapters[0]], "p", 0.0))
            for layer in layers.values()
        }
        if rates == {0.0}:
            raise ValueError(
                "the adapter has lora_dropout 0, so every draw would be the same; pass an explicit "
                "rate, for example dropout=0.1 (--dropout 0.1), and check the thresholds against "
                "held-out data"
            )
        if len(rates) != 1:
            raise ValueError(f"layers have different lora_dropout {sorted(rates)}; pass dropout=")
        dropout = rates.pop()
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 < dropout < 1:
        raise ValueError(f"`dropout` (={dropout!r}) must be a number in (0, 1)")
    return float(dropout)
