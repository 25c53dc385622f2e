"""One prediction as LangChain's typed answers. Pure: knows no classifier's insides and no agent.

A probability is never shared out anew: what a question leaves out stays left out, so its answer's
probabilities may sum to less than 1. An answer over few names is no surer than the classifier was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from langchain_core.decisions import (
    Answer,
    Choice,
    ChoiceAnswer,
    Noul,
    NoulAnswer,
    Question,
    Score,
    ScoreAnswer,
)

from bayeslora_tool.agents.acts import Act, fits

OTHERS = ("other", "none_of_the_above")
"""Choices that take the probability of all labels that no other choice names."""

RISK = "is_risky"
"""What LangChain's ``AutoModeMiddleware`` calls its question."""

_LISTED = 20  # labels in an error


class Reading(NamedTuple):
    """What is known of the text that a question is about."""

    probabilities: Mapping[str, float]
    """Of all labels."""

    classifier: Any
    acts: Mapping[str, Act]
    """From ``acts.read_acts``."""

    tool: str | None
    """That the agent wants to call, if the state says so."""


def answer(name: str, question: Question, reading: Reading) -> Answer:
    """The answer to one question.

    Args:
        name: The question's id.
        question: A ``Choice``, ``Noul`` or ``Score``.
        reading: Of its text.

    Raises:
        ValueError: A criterion that is neither a label, nor an act, nor a glob of labels; a label
            that two criteria name; a question that this classifier cannot answer.
    """
    if isinstance(question, Choice):
        return _choice(name, question, reading)
    if isinstance(question, Noul):
        return _noul(name, question, reading)
    if isinstance(question, Score):
        return _score(name, question, reading)
    raise ValueError(
        f"question {name!r}: a classifier of text cannot answer a {type(question).__name__}; ask a "
        f"Choice, a Noul or a Score"
    )


def _choice(name: str, question: Choice, reading: Reading) -> ChoiceAnswer:
    p = reading.probabilities
    others = [key for key in question.criteria if key in OTHERS and key not in {*p, *reading.acts}]
    if len(others) > 1:
        raise ValueError(f"question {name!r}: `other` and `none_of_the_above` are one; name one")
    named = {key: [key] for key in question.criteria if key not in others}
    groups = _groups(name, named, reading)
    shares = {key: _sum(p[label] for label in groups.get(key, ())) for key in question.criteria}
    if others:
        shares[others[0]] = _sum(p[label] for label in _left(groups, reading))
    best = max(shares, key=lambda key: shares[key])
    return ChoiceAnswer(type="choice", choice=best, probabilities=shares, confidence=shares[best])


def _noul(name: str, question: Noul, reading: Reading) -> NoulAnswer:
    p, criteria = reading.probabilities, question.criteria
    if name == RISK and reading.acts and reading.tool is not None:
        act = reading.acts.get(reading.tool)
        known = () if act is None else (x for x in p if fits(act, x, reading.classifier))
        return NoulAnswer(type="noul", noul=1 - _sum(p[label] for label in known))
    if criteria is not None and criteria.true is not None:
        named = {"true": _names(f"question {name!r}: `criteria.true`", criteria.true)}
        if criteria.false is not None:
            named["false"] = _names(f"question {name!r}: `criteria.false`", criteria.false)
        groups = _groups(name, named, reading)
        if criteria.false is not None and (left := _left(groups, reading)):
            raise ValueError(
                f"question {name!r}: neither yes nor no names {_listed(left)}; leave "
                f"`criteria.false` out, and all that is not yes counts as no"
            )
        return NoulAnswer(type="noul", noul=_sum(p[label] for label in groups["true"]))
    yes = [label for label in p if label.casefold() in ("yes", "true")]
    if len(p) == 2 and len(yes) == 1:
        return NoulAnswer(type="noul", noul=_sum([p[yes[0]]]))
    raise ValueError(
        f"question {name!r}: which labels mean yes is not known; name them, as in "
        f"criteria=NoulCriteria(true=LABEL), of {_listed(p)}"
    )


def _score(name: str, question: Score, reading: Reading) -> ScoreAnswer:
    p = reading.probabilities
    levels = {
        str(i): _names(f"question {name!r}: level {i}", value)
        for i, value in enumerate(question.criteria)
    }
    groups = _groups(name, levels, reading)
    if left := _left(groups, reading):
        raise ValueError(
            f"question {name!r}: no level names {_listed(left)}; an expected level needs one for "
            f"each label"
        )
    shares = {i: _sum(p[x] for x in groups[str(i)]) for i in range(len(levels))}
    return ScoreAnswer(
        type="score",
        score=math.fsum(i * share for i, share in shares.items()),
        legend=dict(enumerate(question.criteria)),
        probabilities=shares,
        confidence=max(shares.values()),
    )


def _groups(
    name: str, named: Mapping[str, Iterable[str]], reading: Reading
) -> dict[str, list[str]]:
    """The labels that each criterion means."""
    owner: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for key, names in named.items():
        meant = {label: None for one in names for label in _meant(name, one, reading)}
        for label in meant:
            if label in owner:
                raise ValueError(
                    f"question {name!r}: label {label!r} counts for {owner[label]!r} and for "
                    f"{key!r}; a label may count once"
                )
            owner[label] = key
        groups[key] = list(meant)
    return groups


def _meant(question: str, name: str, reading: Reading) -> list[str]:
    labels, act = reading.probabilities, reading.acts.get(name)
    if act is not None:
        found = [label for label in labels if fits(act, label, reading.classifier)]
    elif name in labels:
        found = [name]
    else:
        found = [label for label in labels if fnmatchcase(label, name)]
    if found:
        return found
    acts = f", or of the acts {_listed(reading.acts)}" if reading.acts else ""
    into = getattr(reading.classifier, "act_of", {}).get(name)
    into = f" (it leads to {into!r} here)" if into is not None else ""
    raise ValueError(
        f"question {question!r}: {name!r:.80} is no label{into}; criteria must be names or globs "
        f"of the labels {_listed(labels)}{acts}"
    )


def _left(groups: Mapping[str, Iterable[str]], reading: Reading) -> list[str]:
    named = {label for labels in groups.values() for label in labels}
    return [label for label in reading.probabilities if label not in named]


def _names(where: str, value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"{where} must be a label or a list of labels, got {value!r:.80}")
    return names


def _sum(shares: Iterable[float]) -> float:
    # Rounding may take a sum of probabilities a hair over 1, and a single one below 0.
    return min(max(math.fsum(shares), 0.0), 1.0)


def _listed(names: Iterable[str]) -> str:
    few = list(names)
    more = f" and {len(few) - _LISTED} more" if len(few) > _LISTED else ""
    return ", ".join(few[:_LISTED]) + more
