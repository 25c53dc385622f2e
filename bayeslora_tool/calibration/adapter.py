"""Calibrates an adapter: temperature and sureness, then thresholds with a guarantee.

Scores the texts and keeps the books; what is promised rests on ``guarantee.py``, what was found is
written by ``preset_file.py``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special

from bayeslora_tool.artifacts.backbone import sha256
from bayeslora_tool.artifacts.manifest import CalibrationRecord, Forecast, Offset
from bayeslora_tool.calibration.guarantee import Rescored, calibrate, calibrate_load, split
from bayeslora_tool.calibration.labelled_texts import check_request
from bayeslora_tool.calibration.preset_file import Calibrated
from bayeslora_tool.calibration.sureness import fit_sureness, out_of_fold
from bayeslora_tool.calibration.thresholds import Floats, Goal, Scores, Thresholds
from bayeslora_tool.classifier import TOKENS_PER_PASS, BayesLoRAClassifier
from bayeslora_tool.inference.encoding import batches
from bayeslora_tool.inference.estimators import regress
from bayeslora_tool.inference.forecast import measured_forecast
from bayeslora_tool.inference.sequential import measured_offset
from bayeslora_tool.policy import Policy, Preset, Scoring, is_foreign
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.progress import Advance, Progress, silent
from bayeslora_tool.training.dataset import LabelledText
from bayeslora_tool.training.typos import mistype_share

logger = logging.getLogger(__name__)
OFFSET_TEXTS = 100
OFFSET_DRAWS = 64  # of each


def calibrate_adapter(
    classifier: BayesLoRAClassifier,
    examples: Sequence[LabelledText],
    out_of_scope: Sequence[str] = (),
    *,
    adapter: str,
    goal: Goal,
    acts: Mapping[str, Sequence[str]] | None = None,
    max_escalation: float | None = None,
    scoring: Scoring | None = None,
    typos: float = 0.0,
    files: Sequence[Path] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> Calibrated:
    """Fit temperature, offset, sureness and forecast, then choose thresholds.

    They are fitted on the tuning texts alone: the testing ones, which the guarantee rests on, have
    no part in them. The classifier keeps the fits.

    Args:
        classifier: Of an adapter with a manifest.
        examples: Labelled texts that neither trained the adapter nor chose its epoch.
        out_of_scope: Texts that no label fits; each that proceeds counts as an error.
        adapter: How the preset names the adapter.
        goal: What to guarantee.
        acts: The labels that lead to each act: thresholds over acts, where wrong means the wrong
            act; see ``BayesLoRAClassifier.for_acts``.
        max_escalation: Cap the reviewers' load instead of the risk; see ``calibrate_load``.
        scoring: What the thresholds shall hold for.
        typos: Share of all texts, in [0, 1], that is mistyped before anything is measured, labels
            kept: the promise is then for texts with so many typing errors.
        files: That the texts came from, for the record.
        seed: Of the split into tuning and testing texts.
        progress: Of each stage, in texts.

    Raises:
        ValueError: A label the classifier does not know, one class only, too few texts, or no
            manifest to write the result into.
    """
    if classifier.manifest is None:
        raise ValueError(
            "the adapter has no bayeslora.json, so a calibration could not be tied to its weights; "
            "have `bayeslora adopt` write one, or train it with `bayeslora train`"
        )
    scoring = scoring or classifier.scoring
    if scoring.estimator == "deterministic":
        raise ValueError(
            "estimator 'deterministic' has no variance to find a threshold for; calibrate "
            "with adaptive, linearized or monte_carlo"
        )
    check_request(examples, classifier.labels, goal, max_escalation)
    if not 0 <= typos <= 1:
        raise ValueError(f"`typos` (={typos!r}) must be a share, from 0 to 1")
    typed = mistype_share([*(e.text for e in examples), *out_of_scope], typos, seed)
    examples = [replace(e, text=text) for e, text in zip(examples, typed, strict=False)]
    out_of_scope = typed[len(examples) :]
    tuning, testing = split(len(examples) + len(out_of_scope), seed)
    known = [examples[row] for row in tuning if row < len(examples)]
    if not known:
        raise ValueError(
            f"none of the {len(examples)} labelled texts came into the tuning quarter, for "
            f"{len(out_of_scope)} out-of-scope texts crowd them out; give more labelled texts"
        )
    classifier.temperature = 1.0
    with progress("fitting the temperature", len(known)) as advance:
        logits = _logits(classifier, [example.text for example in known], advance)
    index = {label: i for i, label in enumerate(classifier.labels)}
    gold = np.array([index[example.label] for example in known])
    classifier.temperature = fit_temperature(logits, gold)
    measured = [example.text for example in known[:OFFSET_TEXTS]]
    with progress(f"taking {OFFSET_DRAWS} draws a text", len(measured)) as advance:
        offset = measure_offset(classifier, measured, advance)
    scorer = classifier if acts is None else classifier.for_acts(acts)
    texts = [*(example.text for example in examples), *out_of_scope]
    right = [
        *(scorer.act_of[example.label] for example in examples),
        *([None] * len(out_of_scope)),
    ]
    with progress("fitting the sureness", len(tuning)) as advance:
        held_out = measure_sureness(
            scorer, [texts[row] for row in tuning], [right[row] for row in tuning], advance
        )
    classifier.sureness = scorer.sureness
    with progress("measuring what one pass foretells", len(tuning)) as advance:
        scorer.forecast = measure_forecast(scorer, [texts[row] for row in tuning], advance)
    classifier.forecast = scorer.forecast
    # `adaptive` scores for thresholds: they are chosen by the scores that it comes close to, and
    # tested on its own.
    adapts = scoring.estimator == "adaptive"
    beforehand = replace(scoring, estimator="linearized") if adapts else scoring
    with progress("scoring", len(texts)) as advance:
        scores = to_scores(predict_all(scorer, texts, beforehand, advance), right)
    if scores.sureness is not None and held_out is not None:
        scores.sureness[tuning] = held_out
    never = scores.variance[testing] >= 1  # see to_scores
    rescored = rescoring(scorer, scoring, texts, right, testing, never) if adapts else None
    if max_escalation is None:
        result = calibrate(scores, goal, seed=seed, rescored=rescored)
    else:
        result = calibrate_load(
            scores, max_escalation=max_escalation, delta=goal.delta, seed=seed, rescored=rescored
        )
    thresholds = result.thresholds
    scored_by = scorer.scored_by(scoring)
    record = CalibrationRecord(
        temperature=classifier.temperature,
        offset=offset,
        sureness=classifier.sureness,
        forecast=classifier._forecast,
        scored_by=scored_by,
        tau_conf=thresholds.tau_conf,
        tau_var=thresholds.tau_var,
        tau_novelty=thresholds.tau_novelty,
        tau_sure=thresholds.tau_sure,
        target_risk=goal.target_risk if max_escalation is None else None,
        max_escalation=max_escalation,
        max_out_of_scope=goal.max_out_of_scope,
        delta=goal.delta,
        coverage=result.coverage,
        risk=result.risk,
        risk_bound=result.risk_bound,
        out_of_scope=result.out_of_scope,
        n_tuning=result.n_tuning,
        n_testing=result.n_testing,
        data_sha256={path.name: sha256(path) for path in files},
        typos=typos,
    )
    policy = Policy(
        tau_conf=thresholds.tau_conf,
        tau_var=thresholds.tau_var,
        tau_novelty=thresholds.tau_novelty,
        tau_sure=thresholds.tau_sure,
        calibrated_for=scored_by,
    )
    listed = None if acts is None else {act: sorted(labels) for act, labels in acts.items()}
    preset = Preset(policy=policy, scoring=scoring, adapter=adapter, acts=listed)
    return Calibrated(record, result, preset)


def to_scores(predictions: Sequence[Prediction], gold: Sequence[str | None]) -> Scores:
    """Predictions beside the right labels; None marks an out-of-scope text."""
    novelty, sureness = (
        np.array([getattr(p, name) for p in predictions], dtype=float)  # None becomes NaN
        for name in ("novelty", "sureness")
    )
    return Scores(
        confidence=np.array([p.confidence for p in predictions]),
        # No threshold lets a text proceed that was not read whole, or looks foreign.
        variance=np.array([1.0 if _never(p) else p.variance for p in predictions]),
        novelty=None if np.isnan(novelty).any() else novelty,
        correct=np.array([p.label == label for p, label in zip(predictions, gold, strict=True)]),
        in_scope=np.array([label is not None for label in gold]),
        sureness=None if np.isnan(sureness).any() else sureness,
    )


def _never(prediction: Prediction) -> bool:
    foreign = is_foreign(prediction, Policy(tau_conf=0, tau_var=0.25))  # as presets have it
    return bool(prediction.truncated or prediction.unread or foreign)


def rescoring(
    scorer: BayesLoRAClassifier,
    scoring: Scoring,
    texts: Sequence[str],
    right: Sequence[str | None],
    rows: NDArray[np.intp],
    never: NDArray[np.bool_],
) -> Rescored:
    """How ``adaptive`` scores some of the texts under given thresholds.

    Args:
        scorer: With its forecast.
        scoring: The adaptive one.
        texts: Of which some.
        right: Their labels, or acts; None where no label fits.
        rows: Which of the texts.
        never: (n,) True for those of them that no threshold lets proceed.
    """
    stages = scorer.stages([texts[row] for row in rows], scoring)
    index = {label: i for i, label in enumerate(scorer.labels)}
    gold = np.array([-1 if right[row] is None else index[right[row]] for row in rows])

    def rescored(thresholds: Thresholds) -> Scores:
        settled = stages.settle(
            Policy(
                # A rounding error over 1 is no threshold.
                tau_conf=min(max(thresholds.tau_conf, 0.0), 1.0),
                tau_var=thresholds.tau_var,
                tau_novelty=thresholds.tau_novelty,
                tau_sure=thresholds.tau_sure,
            )
        )
        best = settled.moments.mean.argmax(dim=1, keepdim=True)
        # None becomes NaN.
        novelty, sureness = (
            np.array(known, dtype=float) for known in (settled.novelty, settled.sureness)
        )
        variance = settled.moments.variance.gather(1, best)[:, 0].numpy()
        return Scores(
            confidence=settled.moments.mean.gather(1, best)[:, 0].numpy(),
            # As in `to_scores`.
            variance=np.where(never, 1.0, variance),
            novelty=None if np.isnan(novelty).any() else novelty,
            correct=best[:, 0].numpy() == gold,
            in_scope=gold >= 0,
            sureness=None if np.isnan(sureness).any() else sureness,
        )

    return rescored


def predict_all(
    classifier: BayesLoRAClassifier, texts: Sequence[str], scoring: Scoring, advance: Advance
) -> list[Prediction]:
    """Predictions of many texts, telling ``advance`` how many are done."""
    predictions: list[Prediction] = []
    for start in range(0, len(texts), 256):
        some = texts[start : start + 256]
        predictions += classifier.predict(
            some, n_draws=scoring.n_draws, seed=scoring.seed, estimator=scoring.estimator
        )
        advance(len(some))
    return predictions


def _logits(classifier: BayesLoRAClassifier, texts: Sequence[str], advance: Advance) -> Any:
    parts = []
    for start in range(0, len(texts), 256):
        some = texts[start : start + 256]
        parts.append(classifier.passes(some).logits.numpy())
        advance(len(some))
    return np.concatenate(parts)


def measure_offset(
    classifier: BayesLoRAClassifier, texts: Sequence[str], advance: Advance = lambda n: None
) -> Offset:
    """How far draws lie off the linearization; the classifier uses it from here on.

    The ``adaptive`` estimator starts from it. It holds for this temperature only, and setting
    another forgets it.

    Args:
        classifier: To measure.
        texts: About a hundred, like those to come; each takes 64 draws.
        advance: Called with the number of texts just done.
    """
    network, draws = classifier.network, range(OFFSET_DRAWS)
    seen = []
    # Few at a time, so that there is progress to be seen.
    for batch in batches(network.encoder.encode(texts), TOKENS_PER_PASS // 8):
        linear = network.linearize(batch, keep=True)
        seen.append((
            linear.passed.probabilities,
            linear.variance,
            network.draw(batch, 0, draws),
            network.posterior.project(linear.gradients, 0, draws),
        ))  # fmt: skip
        advance(len(batch))
    plain, known, drawn, change = zip(*seen, strict=True)
    found = regress(torch.cat(drawn, dim=1), torch.cat(change, dim=1), torch.cat(known))
    classifier.offset = measured_offset(torch.cat(plain), found)
    return classifier.offset


def measure_sureness(
    classifier: BayesLoRAClassifier,
    texts: Sequence[str],
    gold: Sequence[str | None],
    advance: Advance = lambda n: None,
) -> Floats | None:
    """Fit how sure the classifier may be of its labels; it says so from here on.

    It holds for this temperature only, and setting another forgets it.

    Args:
        classifier: To measure.
        texts: Like those to come.
        gold: Their right labels, or acts; None where no label fits.
        advance: Called with the number of texts just done.

    Returns:
        (n,) The sureness of each text by a fit without it. None, and the classifier has none,
        where fewer than about ten texts are wrong.
    """
    index = {label: i for i, label in enumerate(classifier.labels)}
    known, right = [], []
    for start in range(0, len(texts), 256):
        some = slice(start, start + 256)
        passed = classifier.passes(texts[some])
        known.append(classifier.reference.signals(passed).numpy())
        found = passed.logits.argmax(dim=1).tolist()
        right += [
            label is not None and index[label] == k
            for label, k in zip(gold[some], found, strict=True)
        ]
        advance(len(found))
    of_texts, is_right = np.concatenate(known), np.array(right)
    held_out = out_of_fold(of_texts, is_right)
    classifier.sureness = None if held_out is None else fit_sureness(of_texts, is_right)
    return held_out


def measure_forecast(
    classifier: BayesLoRAClassifier, texts: Sequence[str], advance: Advance = lambda n: None
) -> Forecast:
    """What a pass without noise foretells of the linearized variance.

    It holds for this temperature and these acts only.

    Args:
        classifier: To measure.
        texts: Some hundreds, like those to come.
        advance: Called with the number of texts just done.
    """
    network = classifier.network
    logits, variances = [], []
    for batch in batches(network.encoder.encode(texts), TOKENS_PER_PASS):
        linear = network.linearize(batch, features=False)
        logits.append(linear.passed.logits)
        variances.append(linear.variance)
        advance(len(batch))
    return measured_forecast(torch.cat(logits), torch.cat(variances), classifier.acts_fingerprint)


def fit_temperature(logits: Floats, labels: NDArray[np.intp]) -> float:
    """The temperature t > 0 that minimises the negative log-likelihood of ``softmax(z / t)``.

    Guo, Pleiss, Sun, Weinberger 2017 (arXiv 1706.04599), equation 9.

    Args:
        logits: (n, C), of the pass without noise.
        labels: (n,), indices of the right classes.

    Returns:
        The temperature, in e^-3..e^3; 1 with a warning where no text is wrong.
    """
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        scaled = logits / math.exp(log_t)
        return float((special.logsumexp(scaled, axis=1) - scaled[rows, labels]).mean())

    if (logits.argmax(axis=1) == labels).all():  # the surer, the likelier: there is no minimum
        logger.warning(
            "none of the %d tuning texts is wrong, so the temperature stays at 1; give more texts",
            len(labels),
        )
        return 1.0
    found = optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return math.exp(found.x)
