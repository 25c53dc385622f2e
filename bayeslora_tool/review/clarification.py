"""The question that is put to a user in doubt, and what the user's words mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.answers import read_decisions
from bayeslora_tool.review.messages import Messages
from bayeslora_tool.review.phrases import declines
from bayeslora_tool.review.requests import ask_about, hitl_request
from bayeslora_tool.text import check_text

CLARIFY_ACTION = "ask_user"
"""The action of a request that goes to the user."""

_SHAPES = (
    'answer with a non-empty text, or {"type": "respond", "message": "..."}, or '
    '{"type": "reject"} if it is none of these'
)

Ask = Callable[[Prediction, str], str]
"""``ask(prediction, text) -> question`` for the user."""


def clarification_request(*, text: str, question: str) -> dict[str, Any]:
    """A ``HITLRequest`` that asks the user, who may ``respond``, or ``reject`` what is offered."""
    args = {"text": text, "question": question}
    return hitl_request(ask_about(CLARIFY_ACTION, args, [question], ["respond", "reject"]))


def put_question(ask: Ask, prediction: Mapping[str, Any], text: str) -> str:
    """What ``ask`` wants to know of the user.

    Raises:
        TypeError: That is no text.
    """
    question = ask(Prediction.from_dict(prediction), text)
    if not isinstance(question, str) or not question.strip():
        raise TypeError(f"`ask` gave {question!r:.60}, expected a question")
    return question


def asker(messages: Messages) -> Ask:
    """Asks which of the two likeliest labels is meant, and names the way out."""

    def ask(prediction: Prediction, text: str) -> str:
        first, second = (label.replace("_", " ") for label, _ in prediction.top(2))
        return messages["question"].format(first=first, second=second)

    return ask


def why_not_asked(asked: int) -> str:
    """The reason for a reviewer where ``max_clarifications`` is reached."""
    if not asked:
        return "The user is not to be asked (max_clarifications=0)."
    return f"The user was asked {asked} times already."


def why_not_again() -> str:
    """The reason for a reviewer where a question has not reached the user."""
    return "The user was asked and has not answered, so they are not asked again."


def why_declined(words: str) -> str:
    """The reason for a reviewer, who reads what the user said."""
    return "The user said that it is none of these" + (f" ({words!r})." if words else ".")


def read_clarification(answer: object, request: Mapping[str, Any]) -> tuple[str, bool]:
    """The user's words, from a plain string or from a decision in any shape.

    Returns:
        The words, and whether the user declines what the question offers: in these words, or by
        ``reject``, which alone may come without any.

    Raises:
        ValueError: No words in it, or some that no classifier can read.
    """
    rejects = False
    if not isinstance(answer, str):
        rejects, answer = _said(answer, request)
    if rejects and not answer:
        return "", True
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(_SHAPES)
    words = check_text(answer, "your answer").strip()
    return words, rejects or declines(words)


def _said(answer: object, request: Mapping[str, Any]) -> tuple[bool, str | None]:
    try:
        (decision,) = read_decisions(answer, request)
    except ValueError as error:
        raise ValueError(f"{error}; {_SHAPES}") from None
    return decision["type"] == "reject", decision["message"]
