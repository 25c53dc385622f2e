"""The ledger's tables.

``reviews`` is what the events add up to; :func:`~bayeslora_tool.desk.verifying.damages` adds them
up again and compares. Times are milliseconds since 1970 by the database's clock.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    select,
    type_coerce,
)

from bayeslora_tool.desk.seal import Sealed

METADATA = MetaData()
NEVER: Final = 2**53  # later than all that is due
KEYS: Final = {
    "urgency": ("rank", "ends", "created", "id"),
    "doubt": ("sureness", "created", "id"),
    "age": ("created", "id"),
}
"""By which columns reviews are sorted, ascending."""

REVIEWS = Table(
    "reviews",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("graph", Text, nullable=False),
    Column("thread", Text, nullable=False),
    Column("interrupt", Text, nullable=False),
    Column("key", Text),
    Column("tool", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("request", Sealed),
    Column("schema", Sealed),
    Column("text", Sealed),
    Column("reason", Sealed),
    Column("conversation", Sealed),
    Column("prediction", Text),
    Column("policy", Text),
    Column("scored_by", Text),
    Column("label", Text),
    Column("confidence", Float),
    Column("variance", Float),
    Column("audit", Boolean, nullable=False),
    Column("inclusion", Float),
    Column("priority", Integer, nullable=False),
    Column("group", Text),
    Column("next_group", Text),
    Column("needed", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("term", BigInteger),
    Column("due", BigInteger),
    Column("state", String(16), nullable=False),
    Column("assignee", Text),
    Column("lease", BigInteger),
    Column("votes", Sealed),
    Column("answer", Sealed),
    Column("decision", Text),
    Column("reviewer_label", Text),
    Column("decided_by", Text),
    Column("decided_at", BigInteger),
    Column("undo_until", BigInteger),
    Column("applied_at", BigInteger),
    Column("erased_at", BigInteger),
    Column("salt", String(32), nullable=False),
    Column("rank", Integer, Computed("-priority", persisted=True)),
    Column("ends", BigInteger, Computed(f"coalesce(due, {NEVER})", persisted=True)),
    Column("sureness", Float, Computed("coalesce(confidence, -1)", persisted=True)),
    Column("audience", Text, Computed("coalesce(\"group\", '')", persisted=True)),
    Index("reviews_by_thread", "graph", "thread"),
    Index("reviews_by_due", "state", "due"),
    Index("reviews_by_lease", "lease"),
    *(
        Index(f"reviews_by_{name}", "state", "audit", *before, *columns)
        for order, columns in KEYS.items()
        for name, before in ((order, []), (f"group_and_{order}", ["audience"]))
    ),
)
"""A row a review.

``term`` is how long each group has, ``undo_until`` the time before which the last answer may be
taken back and is not carried out, ``votes`` what was answered before it is decided. ``decision``
and ``reviewer_label`` are what the answer says in short, and stay when it is erased. The database
computes the last columns from others: by them an inbox is found, and sorted.
"""

TALLIES = Table(
    "tallies",
    METADATA,
    Column("state", String(16), primary_key=True),
    Column("audit", Boolean, primary_key=True),
    Column("audience", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
)
"""How many reviews there are of each kind, so that nobody has to count thousands."""

SEALED: Final = tuple(column.name for column in REVIEWS.columns if isinstance(column.type, Sealed))
"""Columns that may hold what people wrote, as JSON. An event names the salted digest of what is
stored there, so that they can be erased one day and the chain still holds."""

STORED: Final = select(
    *(type_coerce(c, Text).label(c.name) if c.name in SEALED else c for c in REVIEWS.columns)
)
"""Reviews as they are stored: encrypted columns stay so."""

EVENTS = Table(
    "events",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("subject", Text, nullable=False, index=True),
    Column("step", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("changes", Text, nullable=False),
    Column("hash", String(64), nullable=False),
)
"""A row a change, each hashed with the one before; nothing is ever changed in it. Its subject is a
review, by its id, or a reviewer, by their name: the step says which."""

HEAD = Table(
    "head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
)
"""One row: the last event. Who changes the ledger locks it first."""

WORK = Table(
    "work",
    METADATA,
    Column("review", String(16), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("problem", Sealed),
)
"""Which process carries a decision out, until when nobody else may, and why it has failed."""

REVIEWERS = Table(
    "reviewers",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("role", String(16), nullable=False),
    Column("groups", Text, nullable=False),
    Column("tag", String(16), nullable=False),
    Column("token", Text, nullable=False),
)
"""A row a person who may sign in. ``groups`` is a JSON list, ``token`` the argon2 hash of
theirs, and ``tag`` its first characters in the open."""

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("hash", String(64), primary_key=True),
    Column("person", Text, nullable=False, index=True),
    Column("ends", BigInteger, nullable=False),
)
"""A row for each who is signed in; ``hash`` is the SHA-256 of what they show."""

TRIES = Table(
    "tries",
    METADATA,
    Column("whose", Text, primary_key=True),
    Column("wrong", Integer, nullable=False),
    Column("until", BigInteger, nullable=False),
)
"""How often in a row a wrong token was shown, and until when no other is looked at: a row for each
person, and one, with no name, for all who know nobody's tag."""

WEBHOOKS = Table(
    "webhooks",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("url", Sealed, nullable=False),
    Column("secret", Sealed, nullable=False),
    Column("kinds", Text, nullable=False),
    Column("soon", BigInteger, nullable=False),
    Column("texts", Boolean, nullable=False),
    Column("page", Text),
    Column("created", BigInteger, nullable=False),
)
"""A row an address that hears of reviews; ``soon`` is how long before they are due, in ms."""

OUTBOX = Table(
    "outbox",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("webhook", String(16), nullable=False, index=True),
    Column("review", String(16), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("body", Sealed),
    Column("created", BigInteger, nullable=False),
    Column("next", BigInteger, index=True),
    Column("tries", Integer, nullable=False),
    Column("holder", Text),
    Column("until", BigInteger),
    Column("problem", Text),
    Column("sent_at", BigInteger),
)
"""A row a message to a webhook. It is sent from ``next`` on; one without has been sent, or nobody
will send it. Which process is at it until when stands beside."""
