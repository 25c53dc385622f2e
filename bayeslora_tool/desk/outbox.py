"""What webhooks are to hear, written in the transaction of the event that they hear of.

The body of a message is Slack's (``text``) and Standard Webhooks' (``type``, ``timestamp``,
``data``). It holds nothing that people wrote unless a webhook was added so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.review import canonical
from bayeslora_tool.desk.seal import Seal, seal_of
from bayeslora_tool.desk.states import UNDECIDED, PersonStep, Step
from bayeslora_tool.desk.tables import OUTBOX, REVIEWS, WEBHOOKS
from bayeslora_tool.quoting import one_line

Kind = Literal["filed", "due-soon", "expired"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_TOLD: Final[Mapping[str, Kind]] = {
    "filed": "filed",
    "asked again": "filed",
    "passed on": "filed",
    "expired": "expired",
}
_WORDS: Final[Mapping[str, str]] = {
    "filed": "waits",
    "due-soon": "is due soon",
    "expired": "has expired",
}
_MOST = 500  # characters of a text
_AT_ONCE = 500  # messages that are looked for


def announce(
    connection: Connection, row: Mapping[Any, Any], step: Step | PersonStep, now: int, seq: int
) -> None:
    """Write what webhooks hear of an event.

    Args:
        connection: Within the event's transaction.
        row: The review after it.
        step: Of the event.
        now: When it happened.
        seq: Of the event.
    """
    kind = _TOLD.get(step)
    if kind is None or row["audit"]:
        return
    for hook in connection.execute(sa.select(WEBHOOKS)).mappings():
        if kind in hook["kinds"].split():
            _put(connection, hook, row, kind, now, seq)


def announce_due(connection: Connection, now: int) -> None:
    """Write what webhooks hear of reviews that are due soon, once for each time they are due."""
    for hook, row in _due(connection, now):
        _put(connection, hook, row, "due-soon", now, row["due"])


def any_due(connection: Connection, now: int) -> bool:
    """Whether :func:`announce_due` has anything to write: to look takes no lock."""
    return next(_due(connection, now), None) is not None


def _due(connection: Connection, now: int) -> Iterator[tuple[Any, Any]]:
    for hook in connection.execute(sa.select(WEBHOOKS)).mappings().all():
        if "due-soon" not in hook["kinds"].split():
            continue
        waits = sa.and_(REVIEWS.c.state.in_(UNDECIDED), REVIEWS.c.audit.is_(False))
        soon = sa.and_(REVIEWS.c.due > now, REVIEWS.c.due <= now + hook["soon"])
        # Somebody looks each second: at no text, and not one by one.
        found = connection.execute(sa.select(REVIEWS.c.id, REVIEWS.c.due).where(waits, soon)).all()
        names = {_name(hook["id"], one.id, "due-soon", one.due): one.id for one in found}
        left = iter(names)
        while some := list(islice(left, _AT_ONCE)):
            known = sa.select(OUTBOX.c.id).where(OUTBOX.c.id.in_(some))
            told = set(connection.execute(known).scalars())
            for name in some:
                if name not in told:
                    this = sa.select(REVIEWS).where(REVIEWS.c.id == names[name])
                    yield hook, connection.execute(this).mappings().one()


def _put(
    connection: Connection,
    hook: Mapping[Any, Any],
    row: Mapping[Any, Any],
    kind: Kind,
    now: int,
    moment: int,
) -> None:
    seal = seal_of(connection)
    connection.execute(
        sa.insert(OUTBOX).values(
            id=_name(hook["id"], row["id"], kind, moment),
            webhook=hook["id"],
            review=row["id"],
            kind=kind,
            body=seal.close(_body(hook, row, kind, now, seal)),
            created=now,
            next=now,
            tries=0,
        )
    )


def _name(hook: str, review: str, kind: str, moment: int) -> str:
    """The id of a message, by which who gets it twice knows it again."""
    return "msg_" + sha256(canonical([hook, review, kind, moment]).encode()).hexdigest()[:24]


def _body(hook: Mapping[Any, Any], row: Mapping[Any, Any], kind: Kind, now: int, seal: Seal) -> str:
    label, group = row["label"], row["group"]
    due = None if row["due"] is None else _when(row["due"])
    told = f"Review {row['id'][:8]} {_WORDS[kind]}: {_shown(row['tool'])}"
    told += f" ({_shown(label)})" if label else ""
    told += f", for {_shown(group)}" if group else ""
    told += f", due {due:%Y-%m-%d %H:%M} UTC" if due and kind != "expired" else ""
    data: dict[str, Any] = {
        "review": row["id"],
        "graph": row["graph"],
        "tool": row["tool"],
        "label": label,
        "confidence": row["confidence"],
        "group": group,
        "priority": row["priority"],
        "due": due and due.isoformat(),
    }
    if hook["page"]:
        data["url"] = f"{hook['page'].rstrip('/')}/reviews/{row['id']}"
        told += f" {data['url']}"
    if hook["texts"] and row["text"] is not None:
        data["text"] = json.loads(seal.open(row["text"]))
        told += f"\n> {_shown(data['text'])}"
    at = _when(now).isoformat()
    return canonical({"text": told, "type": f"review.{kind}", "timestamp": at, "data": data})


def _when(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)


def _shown(text: str) -> str:
    # In Slack's markup `<!channel>` calls everybody, and `<url|words>` is a link.
    line = one_line(text, _MOST)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
