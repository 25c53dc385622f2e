"""What people wrote, erased from reviews that were settled long ago; the chain holds.

Of an erased review there stays what is no text: who decided, when and what in short, the labels of
model and reviewer, and scores. Its salt goes, too, so that no text can be tried against a digest.
"""

from __future__ import annotations

from math import inf

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.chain import Writer
from bayeslora_tool.desk.names import THE_DESK
from bayeslora_tool.desk.steps import move
from bayeslora_tool.desk.store import Store
from bayeslora_tool.desk.tables import EVENTS, OUTBOX, REVIEWS, SEALED, STORED, WORK

_AT_ONCE = 100  # in one transaction: others wait for it
_SETTLED = sa.or_(
    REVIEWS.c.state.in_(("applied", "withdrawn")),
    sa.and_(REVIEWS.c.state == "expired", REVIEWS.c.answer.is_(None)),
)
_AUDITED = sa.and_(REVIEWS.c.state == "decided", REVIEWS.c.audit.is_(True))


def check_age(name: str, age: float) -> None:
    """Refuse what is no time for which texts may be kept."""
    if not 0 <= age < inf:
        raise ValueError(f"`{name}` (={age!r}) must be a number of seconds >= 0")


def erase(store: Store, older_than: float) -> int:
    """See ``Ledger.erase``."""
    check_age("older_than", older_than)
    since = (
        sa.select(sa.func.max(EVENTS.c.at))
        .where(EVENTS.c.subject == REVIEWS.c.id)
        .scalar_subquery()
    )

    def old(c: Connection) -> list[str]:
        now = store.now(c)
        then = now - round(1000 * older_than)
        over = sa.or_(REVIEWS.c.undo_until.is_(None), REVIEWS.c.undo_until <= now)
        settled = sa.or_(_SETTLED, sa.and_(_AUDITED, over))
        query = sa.select(REVIEWS.c.id).where(settled, REVIEWS.c.erased_at.is_(None))
        return list(c.execute(query.where(since <= then).limit(_AT_ONCE)).scalars())

    def work(c: Connection) -> int:
        change = Writer(c, store.now)
        names = old(c)
        for name in names:
            c.execute(sa.delete(WORK).where(WORK.c.review == name))
            c.execute(sa.delete(OUTBOX).where(OUTBOX.c.review == name))
            # As it is stored: what is to be erased may be what nobody has the key of any more.
            row = c.execute(STORED.where(REVIEWS.c.id == name)).mappings().one()
            gone = dict.fromkeys(SEALED)
            move(change, row, "erased", THE_DESK, **gone, erased_at=change.now)
            c.execute(sa.update(REVIEWS).where(REVIEWS.c.id == name).values(salt=""))
        return len(names)

    done = 0
    while store.read(old):
        done += store.write(work)
    store.forget()  # also what an earlier call had to leave in the log, for somebody read it
    return done
