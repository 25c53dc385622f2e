"""What a run of the escalation graph remembers.

Plain str, float, list and dict only: checkpoint serializers warn about or block anything else.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from typing_extensions import TypedDict  # on Python 3.11, pydantic takes no other


class Clarification(TypedDict):
    """One question to the user and what came back."""

    question: str
    answer: str
    declined: bool
    """The user means none of what the question offers; the answer, if any, is not scored."""


class Route(TypedDict):
    """Where the policy sent the last prediction, and why; ``stop`` is a workflow's alone."""

    action: Literal["proceed", "clarify", "escalate", "stop"]
    reason: str


class Outcome(TypedDict):
    """How the run ended."""

    decision: Literal["proceed", "reject", "respond"]
    """Proceed (``act`` runs), reject (it does not), or respond (a person answered instead)."""

    label: str | None
    """The label to act on; None unless the decision is ``proceed``."""

    decided_by: Literal["model", "user", "human", "budget"]
    """Model: sure at once. User: sure after the user's answers. Human: settled by a reviewer.
    Budget: rejected unseen, because a workflow had no reviews left."""

    reason: str
    """The policy's sentence, and the reviewer's message behind it if there was one."""

    message: str | None
    """What the reviewer wrote; with ``respond``, the answer itself."""

    reviewer: str | None
    """Who settled it, as far as is known: see ``known_reviewer`` in ``graphs/question.py``."""

    text: str
    """What was decided about: the request and the user's answers, a line each."""

    key: str
    """Idempotency key: one for each text that enters the gate, the same in every re-execution."""

    audit: bool
    """It proceeded without a reviewer, and somebody should label it: see ``Policy.audit_rate``."""

    audit_rate: float
    """The policy's: with which probability it was chosen, or would have been."""


class EscalationInput(TypedDict):
    """What a run starts from."""

    text: str


class EscalationState(EscalationInput):
    """What the graph keeps between its steps; ``outcome`` and ``result`` are for the caller."""

    key: str
    """Goes into ``Outcome.key``; made before anything else happens to the text."""

    policy: str
    """``policy_fingerprint`` of the policy that decides."""

    clarifications: list[Clarification]
    prediction: dict[str, Any] | None
    """``Prediction.to_dict()`` of the last scoring, None if it failed; of a classifier that names
    its labels, with the likeliest ones' probabilities only, since a state is streamed and kept."""

    failure: str | None
    """Why the last scoring failed, or why no question could be put."""

    latency: float | None
    """Seconds that the last scoring took."""

    route: Route | None
    """Where the policy sends the prediction, then where the gate sends it."""

    question: str | None
    outcome: Outcome | None
    result: Any
    """What ``act`` returned."""

    bayeslora_open: str | None
    """The text that a person is being asked about; None if nobody is."""

    refused: list[str]
    """Texts that came while a question about another one waited, and were not taken: send them
    again when that is settled."""


OPEN: Final = "bayeslora_open"
"""The key of what must be settled before anything else may begin; to write None gives it up."""


LIKELIEST = 5
"""Labels whose probabilities a state keeps."""


def brief(prediction: dict[str, Any]) -> dict[str, Any]:
    """``Prediction.to_dict()`` with the likeliest labels only, once the policy has had all."""
    likeliest = sorted(prediction["probabilities"].items(), key=lambda item: -item[1])
    return {**prediction, "probabilities": dict(likeliest[:LIKELIEST])}


def full_text(state: EscalationState) -> str:
    """The request followed by the user's answers, a line each: what is scored."""
    answers = [c["answer"] for c in state["clarifications"] if not c["declined"]]
    return "\n".join([state["text"], *answers])
