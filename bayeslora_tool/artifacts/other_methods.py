"""PEFT's methods that are not plain LoRA: each refused by its name, with why and what to do."""

from __future__ import annotations

from collections.abc import Mapping

_WHY = {
    "ADALORA": "AdaLoRA scales each rank by a weight of its own and prunes ranks as it trains",
    "ADAPTION_PROMPT": "a prompt is put into the attention, and no weight changes",
    "CPT": "a prompt is learned, and no weight changes",
    "DORA": "DoRA divides by the norm of W + s B A, which each draw of the masks would change",
    "IA3": "IA3 scales activations, and adds nothing to the weights",
    "LOHA": "LoHa's update is the elementwise product of two low-rank matrices",
    "LOKR": "LoKr's update is a Kronecker product",
    "MULTITASK_PROMPT_TUNING": "a prompt is learned, and no weight changes",
    "PREFIX_TUNING": "a prefix is put before keys and values, and no weight changes",
    "PROMPT_TUNING": "a prompt is learned, and no weight changes",
    "P_TUNING": "a prompt is learned, and no weight changes",
    "VERA": "VeRA's A and B are random and shared by all layers; only scales are trained",
}
_NAMES = {"ADALORA": "AdaLoRA", "DORA": "DoRA", "LOHA": "LoHa", "LOKR": "LoKr", "VERA": "VeRA"}


def check_method(config: Mapping[str, object], source: str) -> None:
    """See that an adapter is plain LoRA, so far as its kind goes.

    Args:
        config: Its settings, as in ``adapter_config.json``.
        source: For the message.

    Raises:
        ValueError: It is made by another of PEFT's methods, or by DoRA.
    """
    method = config.get("peft_type")
    if method == "LORA" and config.get("use_dora"):
        method = "DORA"
    if not isinstance(method, str) or not method.isidentifier() or method == "LORA":
        return  # what is no name at all is refused with the other settings
    name = _NAMES.get(method, method.replace("_", " "))
    why = _WHY.get(method, "its update of the weights is another")
    raise ValueError(
        f"{source} is made by {name:.80}, not by plain LoRA: {why}. Only the dropout of LoRA "
        f"(W + s B A) has a posterior here; train the adapter with peft.LoraConfig(...) without "
        f"use_dora, or with `bayeslora train`"
    )
