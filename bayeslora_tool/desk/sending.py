"""Send what is in the outbox: each message at least once, under one id, signed.

The signature is that of Standard Webhooks: HMAC-SHA256 by the webhook's secret over id, time and
body. A sender leases a message; if it dies, another one sends it after that.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import platform
import random
from base64 import b64decode, b64encode
from contextvars import ContextVar
from threading import Event
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from bayeslora_tool.desk.chain import head_of
from bayeslora_tool.desk.outbox import announce_due, any_due
from bayeslora_tool.desk.store import LedgerError, Store
from bayeslora_tool.desk.tables import OUTBOX, WEBHOOKS

logger = logging.getLogger(__name__)

SECONDS = 10.0  # for all of one request
LEASE = 60.0  # after which another may send what this one began to
FIRST_REST, LONGEST_REST = 5.0, 3600.0  # seconds between two tries
MOST_TRIES = 12
_KEPT = 7 * 86_400_000  # milliseconds for which is known what was sent
_WORDS = 500  # of a problem


class Sent(NamedTuple):
    """What came of one message."""

    message: str
    review: str
    problem: str | None
    """Why it was not taken; None if it was."""

    dead: bool
    """It is not tried again by itself."""


def send_next(store: Store) -> Sent | None:
    """Send one message that is due and that nobody is at; None if there is none.

    Raises:
        LedgerError: The ledger does not answer.
    """
    me = f"{platform.node()} {os.getpid()} {uuid4().hex[:8]}"
    taken = store.write(lambda c: _take(c, store, me))
    if taken is None:
        return None
    row, now = taken
    problem = deliver(row["url"], row["secret"], row["id"], now // 1000, row["body"])
    dead = problem is not None and row["tries"] + 1 >= MOST_TRIES
    store.write(lambda c: _done(c, store, row, me, problem, dead))
    return Sent(row["id"], row["review"], problem, dead)


def send_due(store: Store, stop: Event | None = None) -> list[Sent]:
    """Note what is due soon, and send all that is to be sent now."""
    if store.read(lambda c: any_due(c, store.now(c))):

        def note(c: Connection) -> None:
            head_of(c, lock=True)  # one after another
            announce_due(c, store.now(c))

        store.write(note)
    done = []
    while not (stop and stop.is_set()) and (one := send_next(store)) is not None:
        done.append(one)
    return done


def send_until(store: Store, stop: Event, every: float) -> None:
    """Send until told to stop; a ledger that is away is logged and waited for."""
    while not stop.is_set():
        try:
            for one in send_due(store, stop):
                if one.problem is not None:
                    level = logging.ERROR if one.dead else logging.WARNING
                    logger.log(level, "webhook message %s: %s", one.message, one.problem)
        except LedgerError as error:
            logger.error("%s", error)
        except Exception:
            logger.exception("this round of sending broke off; the next one tries again")
        stop.wait(every)


def signature(secret: str, message: str, at: int, body: str) -> str:
    """What ``webhook-signature`` says.

    Args:
        secret: ``whsec_`` and the key in base64.
        message: ``webhook-id``.
        at: ``webhook-timestamp``, in seconds since 1970.
        body: As it is sent.
    """
    key = b64decode(secret.removeprefix("whsec_"))
    mac = hmac.digest(key, f"{message}.{at}.{body}".encode(), "sha256")
    return "v1," + b64encode(mac).decode()


def deliver(url: str, secret: str, message: str, at: int, body: str) -> str | None:
    """Post one message; what went wrong, or None if it was taken with a 2xx."""
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(at),
        "webhook-signature": signature(secret, message, at, body),
    }
    try:
        return asyncio.run(_post(url, body, headers))
    except ImportError as error:
        raise ValueError(f'{error}; pip install "bayeslora-tool[desk]"') from None
    except TimeoutError:
        return f"no answer within {SECONDS:g} s"
    except Exception as error:  # of the network, and of whoever answers there
        return f"{type(error).__name__}: {error}"[:_WORDS]


_posting: ContextVar[bool] = ContextVar("posting", default=False)


class _SaysNoAddress(logging.Filter):
    """Whoever knows a webhook's address may post there, so the log of httpx does not tell it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it may be said."""
        return not _posting.get()


logging.getLogger("httpx").addFilter(_SaysNoAddress())


async def _post(url: str, body: str, headers: dict[str, str]) -> str | None:
    import httpx

    _posting.set(True)  # in this task

    # A proxy is for the world; what is on this machine is not asked of it.
    client = httpx.AsyncClient(follow_redirects=False, trust_env=url.startswith("https:"))
    # What it answers beyond the status is not read: it may be long.
    post = client.stream("POST", url, content=body, headers=headers)
    async with asyncio.timeout(SECONDS), client, post as answer:
        if answer.is_success:
            return None
        moved = ", which is not followed" if answer.is_redirect else ""
        return f"it answered {answer.status_code}{moved}"


def _take(c: Connection, store: Store, me: str) -> tuple[RowMapping, int] | None:
    now = store.now(c)
    free = sa.or_(OUTBOX.c.until.is_(None), OUTBOX.c.until <= now)
    query = (
        sa.select(OUTBOX, WEBHOOKS.c.url, WEBHOOKS.c.secret)
        .join(WEBHOOKS, WEBHOOKS.c.id == OUTBOX.c.webhook)
        .where(OUTBOX.c.next <= now, free)
        .order_by(OUTBOX.c.next, OUTBOX.c.id)
        .limit(1)
        .with_for_update(of=OUTBOX, skip_locked=True)
    )
    row = c.execute(query).mappings().one_or_none()
    if row is None:
        return None
    mine = {"holder": me, "until": now + round(1000 * LEASE), "tries": OUTBOX.c.tries + 1}
    c.execute(sa.update(OUTBOX).where(OUTBOX.c.id == row["id"]).values(**mine))
    return row, now


def _done(
    c: Connection, store: Store, row: RowMapping, me: str, problem: str | None, dead: bool
) -> None:
    now = store.now(c)
    this = sa.and_(OUTBOX.c.id == row["id"], OUTBOX.c.sent_at.is_(None))
    mine = this if problem is None else sa.and_(this, OUTBOX.c.holder == me)
    result: dict[str, Any] = {"until": None, "problem": problem}
    if problem is None:
        result |= {"sent_at": now, "next": None, "body": None}
        old = sa.and_(OUTBOX.c.webhook == row["webhook"], OUTBOX.c.sent_at < now - _KEPT)
        c.execute(sa.delete(OUTBOX).where(old))
    elif dead:
        result["next"] = None
    else:
        rest = min(FIRST_REST * 2 ** row["tries"], LONGEST_REST) * random.uniform(0.5, 1.5)
        result["next"] = now + round(1000 * rest)
    c.execute(sa.update(OUTBOX).where(mine).values(**result))
