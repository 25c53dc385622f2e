"""Who shows wrong tokens waits, longer each time, and nobody else does.

Tokens begin with a tag. Who shows a right tag is counted by name, all others together: they wait
for each other, never the owner of a token for them.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.tables import TRIES

STRANGERS = ""
"""Whose tries they are who know nobody's tag."""

_FREE = 5  # wrong tokens in a row before there are pauses
_LONGEST_PAUSE = 30  # seconds
_FORGOTTEN = 600  # seconds without a try


def pause(c: Connection, whose: str, now: int, *, count: bool) -> int:
    """Seconds to wait before another token is looked at; 0: none.

    Args:
        c: In a transaction.
        whose: A name, or :data:`STRANGERS`.
        now: The database's time.
        count: Whether to count a try, if it need not wait, as wrong: before it is known to be, as
            others may try at the same time. :func:`forgive` those that are right.
    """
    query = sa.select(TRIES).where(TRIES.c.whose == whose)
    tries = c.execute(query.with_for_update() if count else query).one()
    left = int(tries.until) - now
    if 0 < left <= 1000 * _LONGEST_PAUSE:  # more: the database's clock has leapt back
        return -(-left // 1000)
    if count:
        wrong = 1 + (tries.wrong if -left < 1000 * _FORGOTTEN else 0)
        rest = min(2 ** min(wrong - _FREE, 5), _LONGEST_PAUSE) if wrong >= _FREE else 0
        values = {"wrong": wrong, "until": now + 1000 * rest}
        c.execute(sa.update(TRIES).where(TRIES.c.whose == whose).values(**values))
    return 0


def forgive(c: Connection, whose: str) -> None:
    """Begin to count anew."""
    c.execute(sa.update(TRIES).where(TRIES.c.whose == whose).values(wrong=0, until=0))
