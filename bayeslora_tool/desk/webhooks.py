"""Who hears of reviews over HTTP, and what could not be delivered."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_bytes, token_hex
from threading import Event
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.chain import head_of
from bayeslora_tool.desk.outbox import KINDS, Kind
from bayeslora_tool.desk.seal import seal_of
from bayeslora_tool.desk.sending import Sent, send_due, send_until
from bayeslora_tool.desk.store import Store
from bayeslora_tool.desk.tables import OUTBOX, WEBHOOKS

_LONGEST_WARNING = 3 * 86_400.0  # seconds
_DEAD = sa.and_(OUTBOX.c.sent_at.is_(None), OUTBOX.c.next.is_(None))
_SHOWN = 20  # dead letters


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message that nobody will get unless it is tried again.

    Attributes:
        id: That its receiver knows it by.
        review: What it tells of.
        kind: What has happened.
        tries: How often it was sent.
        problem: Why that failed the last time.
        created: When it was written.
    """

    id: str
    review: str
    kind: str
    tries: int
    problem: str | None
    created: datetime


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """An address that hears of reviews.

    Attributes:
        id: Of the webhook.
        url: Where it is; whoever knows it may perhaps post there.
        kinds: What it hears of.
        soon: How long before a review is due it hears so, in seconds.
        texts: Whether it hears what was asked, in words.
        page: Where the desk's page is, for links.
        waiting: Messages that are still to be sent.
        sent: Those that were, of late.
        dead: Those that failed for good, the newest first, 20 of them at most.
    """

    id: str
    url: str
    kinds: tuple[str, ...]
    soon: float
    texts: bool
    page: str | None
    waiting: int
    sent: int
    dead: tuple[DeadLetter, ...]


class Webhooks:
    """The webhooks of a ledger.

    Args:
        store: Of the ledger.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(
        self,
        url: str,
        *,
        on: Iterable[Kind] = KINDS,
        soon: float = 900.0,
        texts: bool = False,
        page: str | None = None,
    ) -> tuple[str, str]:
        """Let an address hear of reviews that are filed from now on.

        Args:
            url: ``https``, or ``http`` on this machine.
            on: What it hears of: ``filed``, ``due-soon``, ``expired``.
            soon: Seconds before a review is due, > 0, three days at most.
            texts: Whether it hears what was asked, in words; else ids, tools, labels and groups.
            page: Where the desk's page is, for links.

        Returns:
            Its id, and the secret that its messages are signed with: it is not shown again.

        Raises:
            ValueError: One of them will not do.
        """
        _check_url("url", url, own=False)
        if page is not None:
            _check_url("page", page, own=True)
        kinds = list(dict.fromkeys(on))
        if not kinds or (unknown := [one for one in kinds if one not in KINDS]):
            got = ", ".join(unknown) if kinds else "nothing"
            raise ValueError(f"`on` must name some of {', '.join(KINDS)}; got {got}")
        if not 0 < soon <= _LONGEST_WARNING:
            raise ValueError(f"`soon` (={soon!r}) must be seconds > 0, and three days at most")
        name, secret = token_hex(4), "whsec_" + b64encode(token_bytes(32)).decode()

        def work(c: Connection) -> None:
            head_of(c, lock=True)  # who files now tells it, or who files next
            if c.execute(sa.select(WEBHOOKS.c.id).where(WEBHOOKS.c.id == name)).first():
                return  # tried again, and was through the first time
            c.execute(
                sa.insert(WEBHOOKS).values(
                    id=name,
                    url=seal_of(c).close(url),
                    secret=seal_of(c).close(secret),
                    kinds=" ".join(kinds),
                    soon=round(1000 * soon),
                    texts=texts,
                    page=page,
                    created=self._store.now(c),
                )
            )

        self._store.write(work)
        return name, secret

    def all(self) -> list[Webhook]:
        """Those there are, the oldest first."""
        return self._store.read(self._all)

    def remove(self, name: str) -> None:
        """Let an address hear no more; what was not sent yet is dropped.

        Raises:
            ValueError: There is no such webhook.
        """
        seen = False

        def work(c: Connection) -> None:
            nonlocal seen
            there = c.execute(sa.delete(WEBHOOKS).where(WEBHOOKS.c.id == name)).rowcount == 1
            seen |= there
            if not seen:  # nor when this was tried first
                raise _unknown(name)
            c.execute(sa.delete(OUTBOX).where(OUTBOX.c.webhook == name))

        self._store.write(work)

    def retry(self, name: str | None = None) -> int:
        """Send dead letters again, as soon as somebody sends.

        Args:
            name: Id of a webhook; None: of all.

        Returns:
            How many there are.

        Raises:
            ValueError: There is no such webhook.
        """
        dead = _DEAD if name is None else sa.and_(_DEAD, OUTBOX.c.webhook == name)

        def work(c: Connection) -> int:
            if name is not None:
                query = sa.select(WEBHOOKS.c.id).where(WEBHOOKS.c.id == name)
                if c.execute(query).first() is None:
                    raise _unknown(name)
            again = {"next": self._store.now(c), "tries": 0, "until": None}
            return c.execute(sa.update(OUTBOX).where(dead).values(**again)).rowcount

        return self._store.write(work)

    def send(self) -> list[Sent]:
        """Send all that is to be sent now; who else sends as well is not disturbed."""
        return send_due(self._store)

    def send_until(self, stop: Event, *, every: float = 1.0) -> None:
        """Send until told to stop; a ledger that is away is logged and waited for.

        Args:
            stop: Set it to end this.
            every: Seconds between two looks, > 0.
        """
        send_until(self._store, stop, every)

    def _all(self, c: Connection) -> list[Webhook]:
        found = []
        for row in c.execute(sa.select(WEBHOOKS).order_by(WEBHOOKS.c.created)).mappings().all():
            mine = OUTBOX.c.webhook == row["id"]
            counted = sa.select(
                sa.func.count(OUTBOX.c.next), sa.func.count(OUTBOX.c.sent_at)
            ).where(mine)
            waiting, sent = c.execute(counted).one()
            dead = sa.select(OUTBOX).where(mine, _DEAD).order_by(OUTBOX.c.created.desc())
            letters = tuple(
                DeadLetter(
                    id=letter["id"],
                    review=letter["review"],
                    kind=letter["kind"],
                    tries=letter["tries"],
                    problem=letter["problem"],
                    created=datetime.fromtimestamp(letter["created"] / 1000, UTC),
                )
                for letter in c.execute(dead.limit(_SHOWN)).mappings()
            )
            found.append(
                Webhook(
                    id=row["id"],
                    url=row["url"],
                    kinds=tuple(row["kinds"].split()),
                    soon=row["soon"] / 1000,
                    texts=bool(row["texts"]),
                    page=row["page"],
                    waiting=waiting,
                    sent=sent,
                    dead=letters,
                )
            )
        return found


def _unknown(name: str) -> ValueError:
    return ValueError(f"there is no webhook {name!r:.40}; `webhooks` shows their ids")


def _check_url(name: str, url: str, *, own: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    here = host in ("localhost", "127.0.0.1", "::1") or own
    plain = url.isascii() and url.isprintable() and " " not in url and "@" not in parts.netloc
    if not host or not plain or not (parts.scheme == "https" or (parts.scheme == "http" and here)):
        what = "http:// or https://" if own else "https://, or http:// on this machine"
        raise ValueError(f"`{name}` must be an address that begins with {what}, without a password")
