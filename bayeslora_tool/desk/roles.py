"""Who may do what with a review."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from bayeslora_tool.desk.names import check_name
from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.tables import REVIEWERS

Role = Literal["reviewer", "lead", "auditor"]
"""``reviewer``: decides what is for their groups, or for everybody. ``lead``: decides all.
``auditor``: reads all, changes nothing."""

Deed = Literal["read", "claim", "decide"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)


@dataclass(frozen=True)
class Person:
    """Somebody who may sign in."""

    name: str
    role: Role
    groups: frozenset[str]


def may(person: Person, review: FiledReview | Mapping[Any, Any], what: Deed) -> bool:
    """Whether somebody may do that with a review.

    Args:
        person: Who.
        review: Or its row.
        what: The deed.
    """
    if person.role == "lead":
        return True
    if person.role == "auditor":
        return what == "read"
    group = review.group if isinstance(review, FiledReview) else review["group"]
    return group is None or group in person.groups


def permitted(c: Connection, by: str | Person, review: Mapping[Any, Any], what: Deed) -> str:
    """The name of who does something, in whose transaction it is.

    Args:
        c: In a transaction.
        by: A person who is signed in, or a name that the caller answers for.
        review: The row.
        what: The deed.

    Raises:
        ReviewError: ``forbidden``: the person may not do that, or is no longer there.
        ValueError: ``by`` will not do.
    """
    if not isinstance(by, Person):
        check_name("by", by)
        return by
    row = reviewer_row(c, by.name)
    if row is None or not may(read_person(row), review, what):
        raise ReviewError("forbidden", f"{by.name} may not {what} review {review['id']}")
    return by.name


def reviewer_row(c: Connection, name: str) -> RowMapping | None:
    """The row of somebody who may sign in; None where nobody has that name."""
    if not name.isprintable():  # Postgres knows no zero byte
        return None
    return c.execute(sa.select(REVIEWERS).where(REVIEWERS.c.name == name)).mappings().one_or_none()


def read_person(row: RowMapping) -> Person:
    """Whose row it is."""
    return Person(row["name"], row["role"], frozenset(json.loads(row["groups"])))
