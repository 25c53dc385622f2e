"""One review as the ledger has it, and what identifies it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from langgraph.types import Interrupt

from bayeslora_tool.desk.conversation import Turn
from bayeslora_tool.desk.states import State
from bayeslora_tool.review.agui import agui_interrupts


def canonical(value: object) -> str:
    """The one JSON text of a value, in ASCII: what is hashed and kept.

    What JSON does not know is put into words; a lone surrogate or a zero byte is an escape.
    """
    plain = json.loads(json.dumps(value, default=repr))  # so that it reads back to the same text
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def storable(text: object) -> bool:
    """Whether this is a text that every database holds as it is."""
    if not isinstance(text, str):
        return False
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def check_storable(what: str, text: object) -> None:
    """Refuse what not every database can hold, or look for; None is fine.

    Raises:
        ValueError: It is no text, or one with a zero byte or half a surrogate pair in it.
    """
    if text is not None and not storable(text):
        raise ValueError(f"`{what}` (={text!r:.60}) must be a text that every database holds")


def digest_of(request: object) -> str:
    """SHA-256 of what a reviewer is shown: an answer counts for exactly this."""
    return sha256(canonical(request).encode()).hexdigest()


def review_id(graph: str, thread: str, interrupt: str, digest: str) -> str:
    """The same for each filing of the same question, and another for whatever else is asked."""
    return sha256(canonical([graph, thread, interrupt, digest]).encode()).hexdigest()[:16]


def audit_id(thread: str, key: str | None) -> str:
    """The same for each filing of the audit of what proceeded under a key."""
    return sha256(canonical(["audit", thread, key]).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a thread asks: all of a review that its graph says.

    Attributes:
        graph: Name under which the desk knows the graph.
        thread: Of the graph's checkpointer.
        interrupt: Id of the interrupt.
        request: Its value, a ``HITLRequest`` or a ``ToolApprovalRequest``.
        schema: JSON schema of the answers, if the graph gave one.
        tool: What is to be done, if approved: the action's name, or several.
        key: Idempotency key of the gate, as in ``outcome["key"]``; None if the graph has none.
        text: What was scored, if the thread still has it.
        reason: Why a person is asked.
        conversation: What was said on the thread lately; empty if it holds no messages.
        prediction: ``Prediction.to_dict()`` with the likeliest labels; None if there is no score.
        policy: ``policy_fingerprint`` of what decided to ask.
        audit: Whether the call has proceeded, and is asked about for the label only.
        inclusion: Probability with which this text came before a person; None if nobody knows.
    """

    graph: str
    thread: str
    interrupt: str
    request: Mapping[str, Any]
    schema: Mapping[str, Any] | None
    tool: str
    key: str | None = None
    text: str | None = None
    reason: str | None = None
    conversation: Sequence[Turn] = ()
    prediction: Mapping[str, Any] | None = None
    policy: str | None = None
    audit: bool = False
    inclusion: float | None = 1.0

    @property
    def digest(self) -> str:
        """Of what is shown."""
        return digest_of(self.request)

    @property
    def id(self) -> str:
        """Of the review."""
        if self.audit:  # of one key there is one, whatever the graph is called
            return audit_id(self.thread, self.key)
        return review_id(self.graph, self.thread, self.interrupt, self.digest)


@dataclass(frozen=True, kw_only=True)
class FiledReview(Question):
    """A review in the ledger; times are the database's, in UTC.

    Attributes:
        filed_as: Its id.
        shown: SHA-256 of the request when it was filed; an answer counts for that alone.
        label: What the model took it for.
        confidence: In that, in [0, 1].
        variance: Of that over draws, in [0, 0.25].
        priority: The higher, the sooner.
        group: Who it is for; None: everybody.
        next_group: Who gets it when it is due; None: nobody, it expires.
        needed: People who have to agree, 1 or 2.
        created: When it was filed.
        due: When it expires, or goes to the next group, unless it is decided; None: never.
        state: See :data:`~bayeslora_tool.desk.states.State`.
        assignee: Who has claimed it.
        lease: Until when.
        voters: Who has answered so far, where several have to.
        answer: That counts.
        decision: What it says, in short: ``approve`` and so on; of several calls, each.
        reviewer_label: What they take the text for; None where they did not say.
        decided_by: Whose it is; None if nobody answered in time.
        decided_at: When it was decided, or expired.
        undo_until: Until then the last answer may be taken back, and is not carried out.
        applied_at: When it was carried out.
        erased_at: When what people wrote was erased.
        problem: Why it could not be carried out so far.
    """

    filed_as: str
    shown: str
    label: str | None
    confidence: float | None
    variance: float | None
    priority: int
    group: str | None
    next_group: str | None
    needed: int
    created: datetime
    due: datetime | None
    state: State
    assignee: str | None
    lease: datetime | None
    voters: tuple[str, ...]
    answer: Any
    decision: str | None
    reviewer_label: str | None
    decided_by: str | None
    decided_at: datetime | None
    undo_until: datetime | None
    applied_at: datetime | None
    erased_at: datetime | None
    problem: str | None

    @property
    def id(self) -> str:
        """Of the review."""
        return self.filed_as

    def to_ag_ui(self) -> dict[str, Any]:
        """What it asks as one of AG-UI's interrupts, with ``expiresAt`` and ``responseSchema``.

        ``metadata`` has the request itself, and what the desk knows of the review. Where it goes to
        the next group when it is due, that is not its end, and ``expiresAt`` is left out.
        """
        asked = Interrupt(value=self.request, id=self.interrupt, response_schema=self.schema)  # type: ignore[arg-type]
        (found,) = agui_interrupts([asked])
        if self.due is not None and self.next_group is None:
            found["expiresAt"] = self.due.isoformat()
        found["metadata"]["bayeslora_desk"] = {
            "review": self.id,
            "state": self.state,
            "group": self.group,
            "priority": self.priority,
            "label": self.label,
            "confidence": self.confidence,
        }
        return found

    @property
    def scored_by(self) -> str | None:
        """Adapter, noise, temperature and estimator of the prediction, in one line."""
        return self.prediction.get("scored_by") or None if self.prediction else None

    @property
    def votes(self) -> int:
        """How many have answered so far, where several have to."""
        return len(self.voters)


def votes_of(row: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Answers to a review that several have to answer: ``by`` whom, ``answer`` and ``at``."""
    return [] if row["votes"] is None else json.loads(row["votes"])


def read_row(row: Mapping[Any, Any], problem: str | None = None) -> FiledReview:
    """The review of a row of ``reviews``."""

    def value(column: str) -> Any:
        return None if row[column] is None else json.loads(row[column])

    def when(column: str) -> Any:
        at = row[column]
        return None if at is None else datetime.fromtimestamp(at / 1000, UTC)

    return FiledReview(
        graph=row["graph"],
        thread=row["thread"],
        interrupt=row["interrupt"],
        request=value("request") or {},
        schema=value("schema"),
        tool=row["tool"],
        key=row["key"],
        text=value("text"),
        reason=value("reason"),
        conversation=value("conversation") or (),
        prediction=value("prediction"),
        policy=row["policy"],
        filed_as=row["id"],
        shown=row["digest"],
        label=row["label"],
        confidence=row["confidence"],
        variance=row["variance"],
        audit=row["audit"],
        inclusion=row["inclusion"],
        priority=row["priority"],
        group=row["group"],
        next_group=row["next_group"],
        needed=row["needed"],
        created=when("created"),
        due=when("due"),
        state=row["state"],
        assignee=row["assignee"],
        lease=when("lease"),
        voters=tuple(vote["by"] for vote in votes_of(row)),
        answer=value("answer"),
        decision=row["decision"],
        reviewer_label=row["reviewer_label"],
        decided_by=row["decided_by"],
        decided_at=when("decided_at"),
        undo_until=when("undo_until"),
        applied_at=when("applied_at"),
        erased_at=when("erased_at"),
        problem=problem,
    )
