"""A review, and what goes with it, as the REST interface gives it."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.roles import Role
from bayeslora_tool.desk.states import State
from bayeslora_tool.desk.states import Step as StepName

_BEGINNING = 1000  # characters of a text


class Summary(BaseModel):
    """One review in a list; times are the database's, in UTC."""

    id: str
    graph: str
    thread: str
    tool: str
    text: str | None = Field(description="In a list its beginning: 1,000 characters.")
    reason: str | None = Field(description="Why a person is asked; in a list, its beginning.")
    label: str | None = Field(description="What the model took the text for.")
    confidence: float | None
    variance: float | None
    priority: int
    group: str | None = Field(description="Who it is for; null: everybody.")
    audit: bool
    needed: int = Field(description="How many people have to agree.")
    votes: int = Field(description="How many have answered so far, where several have to.")
    created: datetime
    due: datetime | None
    state: State
    assignee: str | None
    lease: datetime | None
    decided_by: str | None
    decided_at: datetime | None
    undo_until: datetime | None
    applied_at: datetime | None
    problem: str | None = Field(description="Why it could not be carried out so far.")


class Review(Summary):
    """One review, with all that is asked and answered."""

    interrupt: str
    key: str | None = Field(description="Idempotency key of the gate.")
    digest: str = Field(description="SHA-256 of the request: what an answer counts for.")
    request: dict[str, Any] = Field(description="As the graph asks: a HITLRequest, for example.")
    answers: dict[str, Any] | None = Field(description="JSON schema of what may be answered.")
    conversation: list[dict[str, str]] = Field(
        description="The latest turns of its thread: by whom (user, agent or a tool), and text."
    )
    prediction: dict[str, Any] | None
    policy: str | None = Field(description="Fingerprint of what decided to ask.")
    answer: Any = Field(description="That counts.")


class Reviews(BaseModel):
    """Some reviews."""

    reviews: list[Summary]
    next: str | None = Field(description="`after` of those that follow; null: there are no more.")


class Counts(BaseModel):
    """How many, by state."""

    open: int = 0
    claimed: int = 0
    decided: int = 0
    applied: int = 0
    expired: int = 0
    withdrawn: int = 0


class Event(BaseModel):
    """One change of a review."""

    seq: int
    step: StepName
    at: datetime
    by: str
    hash: str


class SignedIn(BaseModel):
    """A session."""

    secret: str
    ends: datetime


class Me(BaseModel):
    """Somebody who is signed in."""

    name: str
    role: Role
    groups: list[str]
    csrf: str | None


class Problem(BaseModel):
    """Why something was refused."""

    message: str
    problem: str | None = Field(
        None, description="Of a review: unknown, claimed, decided, voted, over, late, forbidden."
    )
    state: State | None = None
    decided_by: str | None = None
    assignee: str | None = None


def published(review: FiledReview) -> Review:
    """A review as JSON can say it: without lone surrogates, and numbers that are none are null."""
    return Review(**_values(review, Review))


def summed_up(review: FiledReview) -> Summary:
    """The same for a list."""
    values = _values(review, Summary)
    begun = {name: (values[name] or "")[:_BEGINNING] or None for name in ("text", "reason")}
    return Summary(**values | begun)


def _values(review: FiledReview, kind: type[Summary]) -> dict[str, Any]:
    names = {"digest": "shown", "answers": "schema"}
    return {name: _plain(getattr(review, names.get(name, name))) for name in kind.model_fields}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
