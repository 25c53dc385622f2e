"""Other ways to doubt, on the same adapter: what the report sets beside ours.

Each method gives predictive means; errors and outsiders are ranked by 1 - confidence for all of
them, so that the comparison is of the methods and not of the signals.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayeslora_tool.artifacts.loading import Source, load_adapter
from bayeslora_tool.calibration.adapter import predict_all
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.evaluation.metrics import Evidence, metrics
from bayeslora_tool.policy import Scoring
from bayeslora_tool.training.dataset import LabelledText

Floats = NDArray[np.float64]
GLOBAL_DRAWS = 20
LAPLACE_TEXTS = 5000
Score = Callable[[Sequence[str]], Floats]
Draw = Callable[[Sequence[str]], Tensor]


def compare(
    classifier: BayesLoRAClassifier,
    adapter: str,
    examples: Sequence[LabelledText],
    outside: Sequence[str],
    *,
    ensemble: Sequence[str] = (),
    train: Sequence[LabelledText] = (),
    progress: Callable[[str], None] = lambda what: None,
    **source: Unpack[Source],
) -> list[dict[str, Any]]:
    """A row for each method: accuracy, calibration, ranking, and cost in passes.

    Args:
        classifier: Calibrated, of ``adapter``.
        adapter: Its name or folder, to load again with the backbone's dropout awake.
        examples: Labelled texts that chose nothing.
        outside: Texts that no label fits; may be empty.
        ensemble: Names or folders of further adapters with the same labels.
        train: Training texts, for the last-layer Laplace approximation; none skips it.
        progress: Called with what begins now.
        **source: How ``adapter`` and the ensemble are loaded, as for ``load_adapter``.

    Raises:
        ValueError: A member of the ensemble has other labels.
    """
    awake = backbone_dropout(adapter, **source)
    methods: dict[str, tuple[float, Score]] = {
        "softmax": (1, _ours(classifier, "deterministic", temperature=1.0)),
        "softmax, temperature": (1, _ours(classifier, "deterministic")),
        "BayesLoRA, linearized": (2, _ours(classifier, "linearized")),
        "BayesLoRA, 20 draws": (20, _ours(classifier, "monte_carlo")),
        f"dropout in the backbone, {GLOBAL_DRAWS} draws": (
            GLOBAL_DRAWS,
            lambda texts: _array(awake(texts).mean(dim=0)),
        ),
    }
    if ensemble:
        members = [classifier]
        members += [BayesLoRAClassifier.from_pretrained(name, **source) for name in ensemble]
        for name, member in zip(ensemble, members[1:], strict=True):
            if member.labels != classifier.labels:
                raise ValueError(f"ensemble member {name} has other labels than {adapter}")
        scores = [_ours(member, "deterministic", temperature=1.0) for member in members]
        methods[f"ensemble of {len(members)} adapters"] = (
            len(members),
            lambda texts: np.mean([score(texts) for score in scores], axis=0),
        )
    if train:
        methods["last-layer Laplace"] = (1, _laplace(classifier, train))
    gold = np.array([classifier.labels.index(e.label) for e in examples])
    texts = [e.text for e in examples]
    rows = []
    for name, (passes, score) in methods.items():
        progress(name)
        p = score(texts)
        strangers = {"doubt": 1 - score(outside).max(axis=1)} if outside else {}
        found = metrics(Evidence(p, gold, {"doubt": 1 - p.max(axis=1)}, strangers))
        rows.append(
            {
                "method": name,
                "ACC": found["accuracy"],
                "ECE": found["ece"],
                "NLL": found["nll"],
                "AURC": found["aurc (doubt)"],
                "AUROC error": found["auroc_error (doubt)"],
                "AUROC OOD": found.get("auroc_ood (doubt)"),
                "passes": passes,
            }
        )
    return rows


def _array(values: Tensor) -> Floats:
    found: Floats = values.numpy()
    return found


def _ours(
    classifier: BayesLoRAClassifier, estimator: Any, temperature: float | None = None
) -> Score:
    def score(texts: Sequence[str]) -> Floats:
        kept = classifier.temperature
        classifier.temperature = temperature or kept
        try:
            found = predict_all(classifier, texts, Scoring(estimator), lambda n: None)
        finally:
            classifier.temperature = kept
        return np.array([list(p.probabilities.values()) for p in found])

    return score


def backbone_dropout(
    adapter: str, n_draws: int = GLOBAL_DRAWS, **source: Unpack[Source]
) -> Callable[[Sequence[str]], Tensor]:
    """MC dropout over the backbone, at the rates it was trained with, and not over the adapter.

    The "global" uncertainty of the BayesLoRA paper (5.4), after Gal & Ghahramani 2016.

    Returns:
        A function from B texts to probabilities (T, B, C), float64.
    """
    loaded = load_adapter(adapter, **source)
    model = loaded.model.train()
    device = next(model.parameters()).device

    def draw(texts: Sequence[str]) -> Tensor:
        parts = []
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        torch.manual_seed(0)
        with torch.inference_mode():
            for start in range(0, len(order), 32):
                some = [texts[i] for i in order[start : start + 32]]
                batch = loaded.tokenizer(some, padding=True, truncation=True, return_tensors="pt")
                draws = [
                    model(**batch.to(device)).logits.double().softmax(-1) for _ in range(n_draws)
                ]
                parts.append(torch.stack(draws).cpu())
        return torch.cat(parts, dim=1)[:, torch.tensor(order).argsort()]

    return draw


def _laplace(classifier: BayesLoRAClassifier, train: Sequence[LabelledText]) -> Score:
    """Kronecker-factored Laplace over the head (Daxberger et al. 2021, arXiv 2106.14806)."""
    try:
        from laplace import Laplace
    except ImportError as error:
        raise ValueError(f"{error}; pip install laplace-torch") from None

    head = next(
        module
        for name, module in classifier.network.model.named_modules()
        if isinstance(module, nn.Linear) and "modules_to_save" in name
    )

    def inputs(texts: Sequence[str]) -> Tensor:
        parts = [classifier.passes(texts[i : i + 256]).head for i in range(0, len(texts), 256)]
        return torch.cat(parts).float()

    # A copy of its own: fitting needs gradients, which the shared head must not keep.
    head = copy.deepcopy(head).requires_grad_(True)
    some = train[:: -(-len(train) // LAPLACE_TEXTS)]
    labels = torch.tensor([classifier.labels.index(e.label) for e in some])
    data = torch.utils.data.TensorDataset(inputs([e.text for e in some]), labels)
    posterior = Laplace(head, "classification", "all", "kron")
    posterior.fit(torch.utils.data.DataLoader(data, batch_size=256))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that `probit`, used below, is its default
        posterior.optimize_prior_precision(method="marglik")

    def score(texts: Sequence[str]) -> Floats:
        with torch.no_grad():
            return _array(posterior(inputs(texts), link_approx="probit").double())

    return score
