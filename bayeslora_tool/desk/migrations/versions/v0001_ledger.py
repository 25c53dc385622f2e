"""The ledger: reviews, the chain of events with its head, work under way, people and webhooks."""

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
        sa.Column("conversation", sa.Text),
        sa.Column("prediction", sa.Text),
        sa.Column("policy", sa.Text),
        sa.Column("scored_by", sa.Text),
        sa.Column("label", sa.Text),
        sa.Column("confidence", sa.Float),
        sa.Column("variance", sa.Float),
        sa.Column("audit", sa.Boolean, nullable=False),
        sa.Column("inclusion", sa.Float),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("group", sa.Text),
        sa.Column("next_group", sa.Text),
        sa.Column("needed", sa.Integer, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("term", sa.BigInteger),
        sa.Column("due", sa.BigInteger),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("assignee", sa.Text),
        sa.Column("lease", sa.BigInteger),
        sa.Column("votes", sa.Text),
        sa.Column("answer", sa.Text),
        sa.Column("decision", sa.Text),
        sa.Column("reviewer_label", sa.Text),
        sa.Column("decided_by", sa.Text),
        sa.Column("decided_at", sa.BigInteger),
        sa.Column("undo_until", sa.BigInteger),
        sa.Column("applied_at", sa.BigInteger),
        sa.Column("erased_at", sa.BigInteger),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.Column("rank", sa.Integer, sa.Computed("-priority", persisted=True)),
        sa.Column("ends", sa.BigInteger, sa.Computed(f"coalesce(due, {2**53})", persisted=True)),
        sa.Column("sureness", sa.Float, sa.Computed("coalesce(confidence, -1)", persisted=True)),
        sa.Column("audience", sa.Text, sa.Computed("coalesce(\"group\", '')", persisted=True)),
    )
    op.create_index("reviews_by_thread", "reviews", ["graph", "thread"])
    op.create_index("reviews_by_due", "reviews", ["state", "due"])
    op.create_index("reviews_by_lease", "reviews", ["lease"])
    orders = {
        "urgency": ["rank", "ends", "created", "id"],
        "doubt": ["sureness", "created", "id"],
        "age": ["created", "id"],
    }
    for order, columns in orders.items():
        for name, before in ((order, []), (f"group_and_{order}", ["audience"])):
            op.create_index(f"reviews_by_{name}", "reviews", ["state", "audit", *before, *columns])
    op.create_table(
        "tallies",
        sa.Column("state", sa.String(16), primary_key=True),
        sa.Column("audit", sa.Boolean, primary_key=True),
        sa.Column("audience", sa.Text, primary_key=True),
        sa.Column("n", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("changes", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("ix_events_subject", "events", ["subject"])
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
    op.create_table(
        "reviewers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("groups", sa.Text, nullable=False),
        sa.Column("tag", sa.String(16), nullable=False),
        sa.Column("token", sa.Text, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("ends", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_sessions_person", "sessions", ["person"])
    tries = op.create_table(
        "tries",
        sa.Column("whose", sa.Text, primary_key=True),
        sa.Column("wrong", sa.Integer, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(tries, [{"whose": "", "wrong": 0, "until": 0}])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("kinds", sa.Text, nullable=False),
        sa.Column("soon", sa.BigInteger, nullable=False),
        sa.Column("texts", sa.Boolean, nullable=False),
        sa.Column("page", sa.Text),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("webhook", sa.String(16), nullable=False),
        sa.Column("review", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("next", sa.BigInteger),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("holder", sa.Text),
        sa.Column("until", sa.BigInteger),
        sa.Column("problem", sa.Text),
        sa.Column("sent_at", sa.BigInteger),
    )
    op.create_index("ix_outbox_webhook", "outbox", ["webhook"])
    op.create_index("ix_outbox_review", "outbox", ["review"])
    op.create_index("ix_outbox_next", "outbox", ["next"])
