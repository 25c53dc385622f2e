"""The ledger's tables.

``reviews`` is what the events add up to; :func:`~bayeslora_tool.desk.chain.damages` adds them up
again and compares. Times are milliseconds since 1970 by the database's clock.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()

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
    Column("request", Text),
    Column("schema", Text),
    Column("text", Text),
    Column("reason", Text),
    Column("prediction", Text),
    Column("policy", Text),
    Column("scored_by", Text),
    Column("priority", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("due", BigInteger),
    Column("state", String(16), nullable=False),
    Column("assignee", Text),
    Column("lease", BigInteger),
    Column("answer", Text),
    Column("decided_by", Text),
    Column("decided_at", BigInteger),
    Column("applied_at", BigInteger),
    Column("salt", String(32), nullable=False),
    Index("reviews_by_state", "state", "due", "created"),
    Index("reviews_by_thread", "graph", "thread"),
)
"""A row a review."""

SEALED: Final = ("request", "schema", "text", "reason", "answer")
"""Columns that may hold what people wrote, as JSON. An event names their salted digest only, so
that they can be erased one day and the chain still holds."""

EVENTS = Table(
    "events",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("review", String(16), nullable=False, index=True),
    Column("step", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("changes", Text, nullable=False),
    Column("hash", String(64), nullable=False),
)
"""A row a change of a review, each hashed with the one before; nothing is ever changed in it."""

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
    Column("problem", Text),
)
"""Which process carries a decision out, until when nobody else may, and why it has failed."""
