"""A review, and what goes with it, as the REST interface gives it."""

from __future__ import annotations

import math
from dataclasses import fields
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from bayeslora_tool.desk.people import Role
from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.states import State
from bayeslora_tool.desk.states import Step as StepName


class Review(BaseModel):
    """One review; times are the database's, in UTC."""

    id: str
    graph: str
    thread: str
    interrupt: str
    key: str | None = Field(description="Idempotency key of the gate.")
    tool: str
    digest: str = Field(description="SHA-256 of the request: what an answer counts for.")
    request: dict[str, Any] = Field(description="As the graph asks: a HITLRequest, for example.")
    answers: dict[str, Any] | None = Field(description="JSON schema of what may be answered.")
    text: str | None
    reason: str | None
    prediction: dict[str, Any] | None
    policy: str | None = Field(description="Fingerprint of what decided to ask.")
    label: str | None
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
    answer: Any = Field(description="That counts.")
    decided_by: str | None
    decided_at: datetime | None
    undo_until: datetime | None
    applied_at: datetime | None
    problem: str | None = Field(description="Why it could not be carried out so far.")


class Reviews(BaseModel):
    """Some reviews."""

    reviews: list[Review]
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
    at: int = Field(description="Milliseconds since 1970.")
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
    values = {field.name: getattr(review, field.name) for field in fields(review)}
    values |= {
        "id": review.id,
        "digest": review.shown,
        "answers": review.schema,
        "votes": review.votes,
    }
    return Review(**{name: _plain(values[name]) for name in Review.model_fields})


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
