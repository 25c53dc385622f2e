"""From a prediction to an action. Pure: knows no torch, no graph, no text."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from bayeslora_tool.prediction import Prediction, contradiction, unknown_label
from bayeslora_tool.settings import Label, parse, read_settings

Action = Literal["proceed", "clarify", "escalate"]
Estimator = Literal["linearized", "adaptive", "monte_carlo", "deterministic"]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Variance = Annotated[float, Field(ge=0, le=0.25, allow_inf_nan=False)]

_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_CONFIG)
class Policy:
    """When to let an agent act, ask the user, or call a human.

    Attributes:
        tau_conf: Least confidence that proceeds, in [0, 1].
        tau_var: Greatest variance that proceeds, in [0, 0.25]. The scale depends on the adapter,
            its dropout rate and the estimator: take it from ``bayeslora calibrate``.
        on_high_variance: What a variance over ``tau_var`` leads to.
        on_low_confidence: What a confidence under ``tau_conf``, or a sureness under ``tau_sure``,
            leads to, if the variance is low.
        max_clarifications: How often the user is asked before a human is, 0 to 1000.
        tau_novelty: Greatest novelty that proceeds, in [0, 1]; anything farther from the training
            set escalates. None: no such gate.
        tau_foreign: Greatest ``Prediction.foreign`` that proceeds, in [0, 1]; a text whose words
            look more foreign escalates, as in another language, or half in one. An adapter that
            does not know lets all pass. None: no such gate.
        tau_sure: Least sureness that proceeds, in [0, 1]; beside ``tau_conf``, which is 0 where
            ``bayeslora calibrate`` found that sureness alone orders better. A prediction without
            one escalates. None: no such gate.
        allow_unread: Whether a text may proceed of which the model did not read all characters
            (``Prediction.unread``), on what it read; it must have read some. One that was cut for
            its length never proceeds.
        allow_no_variance: Whether a prediction may proceed on its confidence alone whose estimator
            has no variance (``deterministic``, or a decision model); of all others ``tau_var`` is
            asked nonetheless.
        calibrated_for: The ``Prediction.scored_by`` that the thresholds were calibrated with; a
            prediction scored otherwise escalates. None: chosen by hand, no check.
        audit_rate: Share of what proceeds that is marked ``audit``, so that somebody labels it, in
            [0, 1]; it proceeds all the same. Without audits nobody learns of the errors among it.

    Raises:
        pydantic.ValidationError: (a ValueError) A value outside its range.
    """

    tau_conf: Probability
    tau_var: Variance
    on_high_variance: Literal["escalate", "clarify"] = "escalate"
    on_low_confidence: Literal["clarify", "escalate"] = "clarify"
    max_clarifications: Annotated[int, Field(ge=0, le=1000)] = 2
    tau_novelty: Probability | None = None
    tau_foreign: Probability | None = 0.99
    tau_sure: Probability | None = None
    allow_unread: bool = False
    allow_no_variance: bool = False
    calibrated_for: Annotated[str, Field(max_length=1000)] | None = None
    audit_rate: Probability = 0.0

    @classmethod
    def from_preset(cls, name_or_path: str | Path) -> Policy:
        """The policy of a bundled preset (``"intents"``) or of a YAML file.

        Raises:
            ValueError: Unknown name, unknown key, value out of range.
            FileNotFoundError: No such file.
        """
        return load_preset(name_or_path).policy


@dataclass(frozen=True, config=_CONFIG)
class Scoring:
    """How predictions are computed. Thresholds hold only for the scoring they were chosen with.

    Attributes:
        estimator: ``adaptive`` makes one pass, linearizes the texts whose route that leaves in
            doubt, and draws for the few that hang in the balance; ``linearized`` takes about two
            passes for each text and has no sampling noise; ``monte_carlo`` draws the adapter
            ``n_draws`` times; ``deterministic`` makes one pass without noise and has no
            variance, see ``Policy.allow_no_variance``.
        n_draws: Draws T, 2 to 10,000; of ``adaptive`` the most, >= 3; unused by the other two.
        seed: Of the draws, in [0, 2**63).
        error: Of ``adaptive``: a text is linearized if that would let it proceed where one pass
            stops it, or the other way round, with a greater probability than this; in (0, 1). That
            it stops for another reason may be 20 times as likely.
        draw_error: Of ``adaptive``: a linearized text is drawn while infinitely many draws would
            do so with a greater probability than this; in (0, 1). From 0.5 on nothing is drawn.
    """

    estimator: Estimator = "linearized"
    n_draws: Annotated[int, Field(ge=2, le=10_000)] = 20
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    error: Annotated[float, Field(gt=0, lt=1)] = 0.005
    draw_error: Annotated[float, Field(gt=0, lt=1)] = 0.3

    def __post_init__(self) -> None:
        if self.estimator == "adaptive" and self.n_draws < 3:
            raise ValueError(
                f"`n_draws` (={self.n_draws}) must be >= 3 for `adaptive`: two draws lie on a line "
                f"and say nothing of their own error"
            )


@dataclass(frozen=True, config=_CONFIG)
class Preset:
    """A policy with the scoring and the adapter its thresholds were chosen for.

    Attributes:
        policy: Thresholds and routes.
        scoring: How predictions are computed.
        adapter: Bundled name, folder, or hub id. In a file, one that begins with ``./`` or ``../``
            is sought from the file's folder.
        acts: The labels that lead to each act, for thresholds over acts; see
            ``BayesLoRAClassifier.for_acts``. None: over labels.
    """

    policy: Policy
    scoring: Scoring = Scoring()
    adapter: Annotated[str, Field(min_length=1, max_length=1000)] = "sentiment"
    acts: dict[Label, list[Label]] | None = None


def load_preset(name_or_path: str | Path) -> Preset:
    """Read a preset; see :meth:`Policy.from_preset` for what it raises."""
    content, source = read_settings(name_or_path)
    preset = parse(Preset, content, source=f"preset {source}", strict=True)
    if preset.adapter.startswith(("./", "../")):
        beside = f"{Path(name_or_path).parent}/{preset.adapter.removeprefix('./')}"
        return replace(preset, adapter=beside)
    return preset


def read_acts(path: str | Path) -> dict[str, list[str]]:
    """Read a YAML file of the labels that lead to each act.

    Raises:
        ValueError: Not a mapping from names to lists of labels.
        FileNotFoundError: No such file.
    """
    content, source = read_settings(path)
    return parse(dict[Label, list[Label]], content, source=f"acts {source}", strict=True)


def lead_to(acts: Mapping[str, Collection[str]], labels: Sequence[str]) -> dict[str, str]:
    """The act that each label leads to; itself, if it leads to none.

    Args:
        acts: The labels that lead to each act.
        labels: All labels.

    Raises:
        ValueError: An unknown label, one that leads to two acts, an act without labels, or one that
            has the name of a label which does not lead to it.
    """
    act_of: dict[str, str] = {}
    for act, some in acts.items():
        if not some:
            raise ValueError(f"`acts[{act!r}]` is empty; name the labels that lead there")
        for label in some:
            if label not in labels:
                raise ValueError(f"`acts[{act!r}]`: {unknown_label(label, labels)}")
            if label in act_of:
                raise ValueError(
                    f"label {label!r} leads to two acts, {act_of[label]!r} and {act!r}; a label "
                    f"may lead to one, or probabilities would not sum to 1"
                )
            act_of[label] = act
        if act in labels and act not in some:
            raise ValueError(
                f"act {act!r} has the name of a label that does not lead to it; rename the act"
            )
    return {label: act_of.get(label, label) for label in labels}


@dataclass(frozen=True)
class Decision:
    """What to do with one prediction, and a sentence that says why, with the numbers."""

    action: Action
    reason: str


def is_foreign(prediction: Prediction, policy: Policy) -> bool:
    """Whether a text's words look more foreign than the policy lets pass."""
    foreign, limit = prediction.foreign, policy.tau_foreign
    return limit is not None and foreign is not None and not foreign <= limit


def calibration_mismatch(policy: Policy, scored_by: str) -> str | None:
    """Why the thresholds send all that is scored so to a person; None if they hold for it.

    Args:
        policy: With the ``calibrated_for`` to compare.
        scored_by: ``Prediction.scored_by``, or ``BayesLoRAClassifier.scored_by()``.
    """
    if policy.calibrated_for in (None, scored_by):
        return None
    return (
        f"The thresholds were calibrated for another scoring ({policy.calibrated_for}) than this "
        f"one ({scored_by or 'unknown'}), so they promise nothing here. Calibrate again, or score "
        f"as they were calibrated."
    )


def not_read(prediction: Prediction, *, allow_unread: bool = False) -> str | None:
    """What of its text the model did not read; None if it read enough.

    Args:
        prediction: One that does not contradict itself.
        allow_unread: See :class:`Policy`.
    """
    if prediction.truncated:
        return f"The text goes on after the {prediction.n_tokens} tokens that the model read."
    unread = prediction.unread  # NaN is unequal to all
    if unread != 0 and not (allow_unread and 0 < unread < 1):
        return (
            f"The model did not read {unread:.2%} of the text's characters: it has no token for "
            f"them."
        )
    return None


def decide(prediction: Prediction, policy: Policy) -> Decision:
    """Route one prediction.

    Proceeds iff ``confidence >= tau_conf``, ``variance <= tau_var`` and, where those gates are set,
    ``novelty <= tau_novelty``, ``foreign <= tau_foreign`` and ``sureness >= tau_sure``. Fails
    closed: what has no variance (see ``allow_no_variance``), contradicts itself (see
    ``prediction.contradiction``), was not read whole (see ``allow_unread``), or was scored
    otherwise than the thresholds were calibrated for, escalates whatever the thresholds.
    """
    confidence, variance = prediction.confidence, prediction.variance
    if wrong := contradiction(prediction):
        return Decision("escalate", f"The score cannot be trusted: {wrong}. A person must decide.")
    unmeasured = math.isnan(variance)
    if unmeasured and not policy.allow_no_variance:
        return Decision(
            "escalate",
            f"There is no variance to hold against `tau_var` (estimator {prediction.estimator}), "
            f"and the policy does not say `allow_no_variance`. A person must decide.",
        )
    if missed := not_read(prediction, allow_unread=policy.allow_unread):
        return Decision("escalate", f"{missed} A person must read it.")
    if is_foreign(prediction, policy):
        return Decision(
            "escalate",
            f"The words look more foreign than those of {prediction.foreign:.1%} of ordinary texts "
            f"(at most {policy.tau_foreign:.1%} proceed), as in another language. A person must "
            f"read it.",
        )
    if mismatch := calibration_mismatch(policy, prediction.scored_by):
        return Decision("escalate", mismatch)
    novelty = math.nan if prediction.novelty is None else prediction.novelty
    if policy.tau_novelty is not None and not novelty <= policy.tau_novelty:
        far = (
            "of unknown distance to the training texts"
            if math.isnan(novelty)
            else f"farther from the training texts than {novelty:.1%} of ordinary ones (at "
            f"most {policy.tau_novelty:.1%} proceed)"
        )
        return Decision(
            "escalate",
            f"The text is {far}, so '{prediction.label}' ({confidence:.3f}) may mean nothing. A "
            f"person must say whether it belongs here.",
        )
    sureness = math.nan if prediction.sureness is None else prediction.sureness
    if policy.tau_sure is not None and math.isnan(sureness):
        return Decision(
            "escalate",
            f"How sure '{prediction.label}' ({confidence:.3f}) is was not measured, and the policy "
            f"asks for a sureness of {policy.tau_sure:.4g}: score with the adapter as calibrated. "
            f"A person must decide.",
        )
    steady = unmeasured or variance <= policy.tau_var
    confident = confidence >= policy.tau_conf
    sure = policy.tau_sure is None or sureness >= policy.tau_sure
    seen = (
        f"'{prediction.label}' with confidence {confidence:.3f} "
        f"({'>=' if confident else '<'} {policy.tau_conf:.4g}) and "
    )
    seen += (
        "no variance"
        if unmeasured
        else f"variance {variance:.2g} ({'<=' if steady else '>'} {policy.tau_var:.3g})"
    )
    if policy.tau_sure is not None:
        seen += f", sureness {sureness:.3f} ({'>=' if sure else '<'} {policy.tau_sure:.4g})"
    if steady and confident and sure:
        return Decision("proceed", f"Sure enough: {seen}.")
    if not steady:
        return Decision(
            policy.on_high_variance,
            f"The adapter's draws disagree: {seen}. The text may be unlike those it was tuned on.",
        )
    rivals = " or ".join(f"'{label}' ({p:.3f})" for label, p in prediction.top(2))
    return Decision(policy.on_low_confidence, f"Not sure enough: {seen}. It could be {rivals}.")


@lru_cache(maxsize=64)  # each decision asks for it
def policy_fingerprint(policy: Policy) -> str:
    """A short hash of all fields of a policy: two that decide alike in all things share it."""
    fields = json.dumps(asdict(policy), sort_keys=True)
    return sha256(fields.encode()).hexdigest()[:12]


def chosen_for_audit(key: str, policy: Policy) -> bool:
    """Whether what proceeds under this key is one of the ``audit_rate`` that somebody labels.

    Args:
        key: Of the outcome: the same in each re-execution, so the choice is, too.
        policy: With the rate.
    """
    drawn = int.from_bytes(sha256(f"audit {key}".encode(errors="surrogatepass")).digest()[:8])
    return drawn < policy.audit_rate * 2**64
