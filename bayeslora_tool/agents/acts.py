"""Which labels may lead to which tool: a call runs only if what the user means fits it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from langchain_core.messages import ToolCall
from langgraph.errors import GraphBubbleUp

from bayeslora_tool.graphs.scoring import check_classifier
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction, unknown_label
from bayeslora_tool.review.requests import ALL_DECISIONS, DecisionType

Labels = str | Iterable[str] | Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Act:
    """What a gate asks of a call of one tool.

    Attributes:
        labels: The labels that lead to it: names, globs (``"book_*"``), or ``fits(label) -> bool``;
            None: the one of the tool's own name.
        check: ``check(args, prediction) -> bool``, asked of a sure call whose label fits; if it
            says no, or raises, the call is escalated. It may run more than once, and of a call that
            changed on its way it sees the probabilities of the likeliest labels only.
        text: Instead of the gate's.
        classifier: Instead of the gate's.
        policy: Instead of the gate's.
        allowed_decisions: What a reviewer of such a call may decide.
        sure_arguments: With ``signal="model"``: arguments that must be there, and of which the
            model must be as sure as of the tool; if it is not, the call is escalated.
    """

    labels: Labels | None = None
    check: Callable[[Mapping[str, Any], Prediction], bool] | None = None
    text: Callable[[ToolCall, Any], str] | None = None
    classifier: Any = None
    policy: Policy | None = None
    allowed_decisions: Sequence[DecisionType] = tuple(ALL_DECISIONS)
    sure_arguments: Sequence[str] = ()


def read_acts(acts: Mapping[str, Act | Labels], classifier: Any) -> dict[str, Act]:
    """A table of acts with every value an :class:`Act`, checked against the labels there are.

    Args:
        acts: By the tool's name.
        classifier: Of the acts that bring none.

    Raises:
        TypeError: Not such a table.
        ValueError: A name or glob that no label of the classifier answers to.
    """
    if not isinstance(acts, Mapping):
        raise TypeError(f"`acts` must be {{tool: labels}}, got {acts!r:.80}")
    table = {}
    for tool, given in acts.items():
        act = given if isinstance(given, Act) else Act(labels=given)
        if isinstance(act.sure_arguments, str):
            raise TypeError(f"`acts[{tool!r}].sure_arguments` must be a list of names, not one str")
        if not callable(act.labels):
            named = tool if act.labels is None else act.labels
            names = [named] if isinstance(named, str) else list(named)
            act = Act(**{**vars(act), "labels": tuple(names)})
            _check_names(tool, names, act.classifier or classifier)
        _check_decisions(tool, act.allowed_decisions)
        if act.classifier is not None:
            check_classifier(act.classifier)
        table[tool] = act
    return table


def misfit(
    acts: Mapping[str, Act], call: ToolCall, values: Mapping[str, Any], classifier: Any
) -> str | None:
    """Why a call does not fit what the user means; None if it does.

    Args:
        acts: From :func:`read_acts`.
        call: That the agent wants to make.
        values: ``Prediction.to_dict()`` of the user's request.
        classifier: Of the acts that bring none.
    """
    tool, label = call["name"], values["label"]
    act = acts.get(tool)
    if act is None:
        return f"No label leads to `{tool}` (it is not among `acts`)."
    reads = f"The request reads as '{label}' ({values['confidence']:.3f})"
    try:
        if not fits(act, label, act.classifier or classifier):
            return f"{reads}; the agent wants `{tool}`."
        if act.check is not None and not act.check(call["args"], Prediction.from_dict(values)):
            return f"{reads}, but the arguments of `{tool}` do not pass its check."
    except GraphBubbleUp:
        raise
    except Exception as error:  # fail closed
        return f"Whether `{tool}` fits the request could not be told ({type(error).__name__})."
    return None


def fits(act: Act, label: str, classifier: Any) -> bool:
    """Whether a label leads to an act, of a table from :func:`read_acts`."""
    if callable(act.labels):
        return bool(act.labels(label))
    # A classifier over acts has other names for the labels that lead to one.
    leads = getattr(classifier, "act_of", {})
    return any(fnmatchcase(label, name) or leads.get(name) == label for name in act.labels or ())


def _check_decisions(tool: str, allowed: Any) -> None:
    if isinstance(allowed, str) or not allowed or not set(allowed) <= set(ALL_DECISIONS):
        raise ValueError(
            f"`acts[{tool!r}].allowed_decisions` (={allowed!r:.80}) must hold one or more of "
            f"{', '.join(ALL_DECISIONS)}"
        )


def _check_names(tool: str, names: Sequence[object], classifier: Any) -> None:
    labels = tuple(getattr(classifier, "labels", ()))
    known = [*labels, *getattr(classifier, "act_of", {})]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"`acts[{tool!r}]` must hold names of labels, got {name!r:.80}")
        if known and not any(fnmatchcase(label, name) for label in known):
            raise ValueError(f"`acts[{tool!r}]`: {unknown_label(name, labels)}")
    if not names:
        raise ValueError(f"`acts[{tool!r}]` is empty, so no call could run; name its labels")
