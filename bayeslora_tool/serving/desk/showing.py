"""A review as a page shows it: what the model thinks, what the policy would need, what was said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from bayeslora_tool.desk.answer import said
from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.policy import Policy
from bayeslora_tool.review.answers import Asked, actions
from bayeslora_tool.review.requests import REVIEW_ACTION

_ANSWERED = "answered"
BARS = 9  # as many as there are keys for


class Bar(NamedTuple):
    """A label with its probability, and how far the draws spread around it; all in percent."""

    label: str
    mean: float
    low: float | None
    high: float | None


class Need(NamedTuple):
    """A gate of the policy beside what was measured."""

    what: str
    measured: str
    needs: str
    met: bool


def bars(review: FiledReview) -> list[Bar]:
    """The likeliest labels; only the first has a spread, one standard deviation to each side."""
    prediction = review.prediction
    if prediction is None:
        return []
    variance = _number(prediction.get("variance"))
    spread = 100 * math.sqrt(variance) if variance is not None and variance >= 0 else None
    shares = {label: _number(p) or 0.0 for label, p in prediction["probabilities"].items()}
    found = []
    for label, share in sorted(shares.items(), key=lambda one: -one[1])[:BARS]:
        mean = 100 * min(1.0, max(0.0, share))
        low = high = None
        if spread is not None and label == prediction.get("label"):
            low, high = max(0.0, mean - spread), min(100.0, mean + spread)
        found.append(Bar(label, mean, low, high))
    return found


def needs(review: FiledReview, policy: Policy | None) -> list[Need]:
    """What the policy asks of each number; empty where it, or the numbers, are not known."""
    prediction = review.prediction
    if prediction is None or policy is None:
        return []
    asked: Sequence[tuple[str, str, float | None, bool]] = (
        ("confidence", "confidence", policy.tau_conf, True),
        ("variance", "variance", policy.tau_var, False),
        ("novelty", "novelty", policy.tau_novelty, False),
        ("foreign words", "foreign", policy.tau_foreign, False),
        ("sureness", "sureness", policy.tau_sure, True),
    )
    found = []
    for what, name, tau, least in asked:
        value = _number(prediction.get(name))
        if (
            tau is None
            or (least and tau == 0)
            or (name == "foreign" and prediction.get(name) is None)
        ):
            continue  # no such gate; and what an adapter cannot tell of passes
        met = value is not None and (value >= tau if least else value <= tau)
        word = "at least" if least else "at most"
        measured = "not known" if value is None else _short(value)
        found.append(Need(what, measured, f"needs {word} {_short(tau)}", met))
    return found


def pickable(review: FiledReview) -> list[str]:
    """Labels that an edit may name, those of :func:`bars` first; none where it names no label."""
    if not _names_label(review):
        return []
    known = _enum(review)
    first = [bar.label for bar in bars(review) if not known or bar.label in known]
    return [*first, *(one for one in known if one not in first)]


def any_label(review: FiledReview) -> bool:
    """Whether an edit may name whatever it likes."""
    return _names_label(review) and not _enum(review)


def _names_label(review: FiledReview) -> bool:
    asked = calls(review)
    return len(asked) == 1 and about_label(asked[0])


def _enum(review: FiledReview) -> list[str]:
    (action,) = calls(review)
    schema = (action.args_schema or {}).get("properties", {}).get("label", {})
    return [one for one in schema.get("enum", []) if isinstance(one, str)]


def calls(review: FiledReview) -> list[Asked]:
    """What a review asks about; nothing any more where that was erased."""
    return actions(review.request) if review.request else []


def args_schema(review: FiledReview, index: int) -> Mapping[str, Any] | None:
    """JSON schema of a call's arguments: the request's own, or that of its answers."""
    own = calls(review)[index].args_schema
    if own is not None:
        return own
    with suppress(KeyError, IndexError, TypeError, StopIteration):
        forms = (review.schema or {})["anyOf"]
        several = next(f for f in forms if "decisions" in f.get("properties", {}))
        kinds = several["properties"]["decisions"]["prefixItems"][index]["oneOf"]
        edit = next(k for k in kinds if k["properties"]["type"].get("const") == "edit")
        found = edit["properties"]["edited_action"]["properties"]["args"]
        return found if isinstance(found, Mapping) else None
    return None


def descriptions(review: FiledReview) -> list[str]:
    """What other clients show of each action."""
    requests = review.request.get("action_requests", [review.request])
    return [str(request.get("description") or "") for request in requests]


def about_label(action: Asked) -> bool:
    """Whether a reviewer names a label, and no arguments of a tool."""
    return action.name == REVIEW_ACTION


def verdict(review: FiledReview) -> str:
    """What was decided, in a few words; empty where nothing was."""
    if review.decision is None:  # undecided, or decided in the graph's own way
        return "" if review.answer is None else _ANSWERED
    return _short_of(review.decision, review.reviewer_label)


def in_short(review: FiledReview, answer: object) -> str:
    """What an answer to a review says, in a few words."""
    word = said(review.request, answer)
    return _ANSWERED if word is None else _short_of(word.decision, word.label)


def message(review: FiledReview) -> str | None:
    """What the reviewer wrote."""
    word = said(review.request, review.answer)
    return word and word.message


def _short_of(decision: str, label: str | None) -> str:
    return f"{decision}: {label}" if label else decision


def _number(value: object) -> float | None:
    """A finite number; None for whatever else stands there."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _short(value: float) -> str:
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"
