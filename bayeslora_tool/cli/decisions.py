"""A decision model of the user's, and what it says about many texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayeslora_tool.cli.importing import imported
from bayeslora_tool.cli.terminal import err, progress
from bayeslora_tool.quoting import visible

if TYPE_CHECKING:
    from bayeslora_tool.agents.decision_classifier import DecisionClassifier
    from bayeslora_tool.prediction import Prediction

_BATCH = 64  # texts that the model is asked about at a time


def decision_classifier(spec: str, question: str | None) -> DecisionClassifier:
    """What ``--decisions`` and ``--question`` name.

    Raises:
        ValueError: No such names, or not one question.
        TypeError: Neither a decision model nor a ``DecisionClassifier``; no question.
    """
    from bayeslora_tool.agents.decision_classifier import DecisionClassifier

    found = imported("--decisions", spec)
    if isinstance(found, DecisionClassifier):
        if question is not None:
            raise ValueError(f"--question: {spec} is a DecisionClassifier and has a question")
        return found
    if question is None:
        raise ValueError(
            "--question MODULE:NAME is missing: the Choice, Noul or Score that the model is asked"
        )
    return DecisionClassifier(found, imported("--question", question))


def ask_all(classifier: DecisionClassifier, texts: list[str]) -> list[Prediction | None]:
    """A prediction a text, None where a gate would escalate for want of one; warns of those.

    Raises:
        ValueError: There is none at all.
    """
    found: list[Prediction | None] = []
    first, failed = None, 0
    with progress("asking the decision model", len(texts)) as advance:
        for start in range(0, len(texts), _BATCH):
            some = classifier.attempt(texts[start : start + _BATCH])
            for one in some:
                if isinstance(one, Exception):
                    first, failed = first or f"{type(one).__name__}: {one}", failed + 1
                    found.append(None)
                else:
                    found.append(one)
            advance(len(some))
    if failed == len(texts):
        raise ValueError(f"none of the {failed} texts could be scored; the first: {first}")
    if first is not None:
        err.print("[yellow]warning:[/]", end=" ")
        said = f"{failed} texts could not be scored and count as escalated; the first: {first}"
        err.print(visible(said), markup=False, highlight=False, soft_wrap=True)
    return found
