"""What calibration asks of its labelled texts, before anything is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bayeslora_tool.calibration.guarantee import FEWEST
from bayeslora_tool.calibration.thresholds import Goal, check_share
from bayeslora_tool.text import normal_text
from bayeslora_tool.training.dataset import LabelledText


def check_request(
    examples: Sequence[LabelledText],
    labels: Sequence[str],
    goal: Goal,
    max_escalation: float | None,
) -> None:
    """Refuse texts that could show nothing, and two goals at once.

    Args:
        examples: That the thresholds shall rest on.
        labels: That the classifier knows.
        goal: What to guarantee.
        max_escalation: What to cap instead, in (0, 1).

    Raises:
        ValueError: A label the classifier does not know, one class only, too few texts, or two
            goals.
    """
    check_share("max_escalation", max_escalation)
    if max_escalation is not None and goal.max_out_of_scope is not None:
        raise ValueError(
            "`max_escalation` caps what is stopped, `max_out_of_scope` what is not; give one"
        )
    for example in examples:
        if example.label not in labels:
            raise ValueError(
                f"line {example.line}: label {example.label!r} is not one of the classifier's "
                f"{len(labels)}: {', '.join(labels[:5])}, ...; give texts that no label fits "
                f"as out-of-scope texts"
            )
    if len({example.label for example in examples}) < 2:
        raise ValueError("the calibration texts hold one class only; they must be like the texts "
                         "to come")  # fmt: skip
    if len(examples) < FEWEST:
        raise ValueError(
            f"{len(examples)} labelled texts; at least {FEWEST} are needed, better 1,000"
        )


def recurring(examples: Sequence[LabelledText], train: Sequence[LabelledText]) -> tuple[int, int]:
    """How many texts recur in the training texts, and how many repeat another of their own."""
    seen = {normal_text(example.text) for example in train}
    own = Counter(normal_text(example.text) for example in examples)
    return sum(text in seen for text in own.elements()), sum(n - 1 for n in own.values())
