"""The ledger: reviews, the chain of events with its head, and the work under way."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables; the chain begins with nothing."""
    op.create_table(
        "reviews",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("graph", sa.Text, nullable=False),
        sa.Column("thread", sa.Text, nullable=False),
        sa.Column("interrupt", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("tool", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("request", sa.Text),
        sa.Column("schema", sa.Text),
        sa.Column("text", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("prediction", sa.Text),
        sa.Column("policy", sa.Text),
        sa.Column("scored_by", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("due", sa.BigInteger),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("assignee", sa.Text),
        sa.Column("lease", sa.BigInteger),
        sa.Column("answer", sa.Text),
        sa.Column("decided_by", sa.Text),
        sa.Column("decided_at", sa.BigInteger),
        sa.Column("applied_at", sa.BigInteger),
        sa.Column("salt", sa.String(32), nullable=False),
    )
    op.create_index("reviews_by_state", "reviews", ["state", "due", "created"])
    op.create_index("reviews_by_thread", "reviews", ["graph", "thread"])
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("review", sa.String(16), nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("changes", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("ix_events_review", "events", ["review"])
    head = op.create_table(
        "head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": "", "at": 0}])
    op.create_table(
        "work",
        sa.Column("review", sa.String(16), primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("problem", sa.Text),
    )
