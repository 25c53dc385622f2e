"""How the cost of each estimator grows with draws, batch, length and number of labels."""

from __future__ import annotations

from functools import partial
from statistics import median

from peft import LoraConfig, get_peft_model

from bayeslora_tool.artifacts.backbone import find_backbone
from bayeslora_tool.artifacts.backbone_model import load_backbone, load_tokenizer, quiet
from bayeslora_tool.benchmarking.timing import Call, Progress, take_turns
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.inference.posterior import AdapterPosterior


def cost_curves(
    classifier: BayesLoRAClassifier, texts: list[str], progress: Progress
) -> dict[str, dict[str, list[list[float]]]]:
    """Milliseconds a text, by what grows: {axis: {contestant: [[x, ms], ...]}}."""
    some = (texts * 8)[:8]
    curves: dict[str, dict[str, list[list[float]]]] = {}

    def measure(axis: str, x: float, batch: list[str], on: BayesLoRAClassifier, n: int) -> None:
        progress(f"cost by {axis}: {x:g}")
        calls: dict[str, Call] = {
            name: partial(on.predict, batch, estimator=name, n_draws=n)
            for name in ("deterministic", "linearized", "monte_carlo")
        }
        for call in calls.values():
            call()
        for name, seconds in take_turns(calls, 3).items():
            points = curves.setdefault(axis, {}).setdefault(name, [])
            points.append([x, 1e3 * median(seconds) / len(batch)])

    for n in (2, 5, 10, 20, 40):
        measure("draws T", n, some, classifier, n)
    for n in (1, 4, 16, 32):
        measure("texts in a call", n, (texts * 32)[:n], classifier, 20)
    for n in (8, 32, 128, 512):
        length = min(n, classifier.max_tokens)
        measure("tokens a text", length, ["word " * (length - 2)] * 2, classifier, 20)
    for n in (2, 20, 200, 2000):
        measure("labels", n, some, _with_labels(classifier, n), 20)
    return curves


def _with_labels(classifier: BayesLoRAClassifier, n: int) -> BayesLoRAClassifier:
    """An untrained adapter like the classifier's, with a head of n labels: costs the same."""
    record = classifier.manifest.backbone if classifier.manifest else None
    folder = find_backbone(record.name if record else "", record.revision if record else None)
    labels = [str(i) for i in range(n)]
    rank = next(m.down.shape[0] for m in classifier.network.model.modules() if hasattr(m, "down"))
    with quiet():
        model = get_peft_model(
            load_backbone(folder, labels),
            LoraConfig(task_type="SEQ_CLS", r=rank, target_modules="all-linear"),
        )
    posterior = AdapterPosterior(model, dropout=classifier.posterior.dropout)
    return BayesLoRAClassifier(model, load_tokenizer(folder), labels, posterior)
