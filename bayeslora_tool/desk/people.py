"""Who may sign in, and who is signed in.

A token is shown once and kept as an argon2 hash, beside the tag with which it begins.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from secrets import token_urlsafe
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from bayeslora_tool.desk.chain import Writer
from bayeslora_tool.desk.names import THE_DESK, check_name
from bayeslora_tool.desk.roles import ROLES, Person, Role, read_person, reviewer_row
from bayeslora_tool.desk.store import Store
from bayeslora_tool.desk.tables import REVIEWERS, SESSIONS, TRIES
from bayeslora_tool.desk.tries import STRANGERS, forgive, pause

try:
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[desk]"') from None

_TAG = 11  # characters, of 6 bits each, with which a token begins
_SIGNED_IN = 12 * 3600  # seconds
_LONGEST_TOKEN = 200  # bytes of it that are looked at


class SignInError(ValueError):
    """Nobody was signed in: no such name and token, or too many wrong ones before."""


@dataclass(frozen=True)
class Session:
    """Somebody who is signed in.

    Attributes:
        person: Who.
        csrf: What each change that they ask for must carry, beside the session's secret.
        ends: When they have to sign in again.
    """

    person: Person
    csrf: str
    ends: datetime


class People:
    """Who may sign in at a ledger, and who is.

    Args:
        store: Of the ledger.

    Attributes:
        hasher: Makes and checks the hashes of tokens.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.hasher = PasswordHasher()

    def add(self, name: str, role: Role = "reviewer", groups: Iterable[str] = ()) -> str:
        """Let somebody in.

        Args:
            name: Theirs, as it will be on record.
            role: What they may do.
            groups: Whose reviews they get, beside those that are for everybody.

        Returns:
            Their token, which is kept nowhere.

        Raises:
            ValueError: Somebody has that name, or an argument will not do.
        """
        check_name("name", name)
        groups = sorted(set(groups))
        for group in groups:
            check_name("groups", group)
        if role not in ROLES:
            raise ValueError(f"`role` (={role!r:.40}) must be one of {', '.join(ROLES)}")
        token = token_urlsafe(33)
        row = {
            "name": name,
            "role": role,
            "groups": json.dumps(groups),
            "tag": token[:_TAG],
            "token": self.hasher.hash(token),
        }

        def work(c: Connection) -> None:
            change = Writer(c, self.store.now)
            if (there := reviewer_row(c, name)) is not None:
                if there["token"] == row["token"]:  # tried again, and was through the first time
                    return
                raise ValueError(f"`name` (={name!r}) is taken; remove them first")
            c.execute(sa.insert(REVIEWERS).values(**row))
            c.execute(sa.insert(TRIES).values(whose=name, wrong=0, until=0))
            change.add({"id": name, "salt": ""}, "joined", THE_DESK, told_of(row))

        self.store.write(work)
        return token

    def remove(self, name: str) -> None:
        """Let somebody in no longer; where they are signed in, that is over.

        Raises:
            ValueError: There is nobody of that name.
        """
        seen = False

        def work(c: Connection) -> None:
            nonlocal seen
            change = Writer(c, self.store.now)
            there = reviewer_row(c, name) is not None
            if seen and not there:  # tried again, and was through the first time
                return
            seen = there
            if not there:
                raise ValueError(f"`name` (={name!r:.60}) is no reviewer; see `reviewers`")
            # First what who signs in has locked, so that their session is there, or never will be.
            c.execute(sa.delete(TRIES).where(TRIES.c.whose == name))
            c.execute(sa.delete(SESSIONS).where(SESSIONS.c.person == name))
            c.execute(sa.delete(REVIEWERS).where(REVIEWERS.c.name == name))
            change.add({"id": name, "salt": ""}, "left", THE_DESK, {})

        self.store.write(work)

    def all(self) -> list[Person]:
        """Everybody who may sign in, by name."""
        query = sa.select(REVIEWERS).order_by(REVIEWERS.c.name)
        return self.store.read(lambda c: [read_person(row) for row in c.execute(query).mappings()])

    def get(self, name: str) -> Person | None:
        """Who has that name."""
        row = self.store.read(lambda c: reviewer_row(c, name))
        return None if row is None else read_person(row)

    def sign_in(self, name: str, token: str) -> str:
        """Begin a session.

        Args:
            name: Whose.
            token: As :meth:`add` gave it.

        Returns:
            The session's secret, of which the ledger keeps a hash alone.

        Raises:
            SignInError: It is not theirs, or there is nobody of that name, which takes as long.
        """
        shown = token.encode("utf-8", "surrogatepass")[:_LONGEST_TOKEN]
        nobodys = self._nobodys_token
        # Looked at first, so that whoever has to wait costs nothing.
        self.store.read(lambda c: self._attempt(c, name, shown))
        row = self.store.write(lambda c: self._attempt(c, name, shown, count=True))
        right = False
        with suppress(VerificationError, InvalidHashError):
            right = self.hasher.verify(nobodys if row is None else row["token"], shown)
        if row is None or not right:
            raise SignInError("there is nobody of that name with that token")
        secret = token_urlsafe(32)

        def begin(c: Connection) -> bool:
            now = self.store.now(c)
            forgive(c, row["name"])
            still = reviewer_row(c, row["name"])
            if still is None or still["token"] != row["token"]:
                return False
            c.execute(sa.delete(SESSIONS).where(SESSIONS.c.ends <= now))
            c.execute(sa.delete(SESSIONS).where(SESSIONS.c.hash == _hash(secret)))  # tried again
            values = {"hash": _hash(secret), "person": row["name"], "ends": now + 1000 * _SIGNED_IN}
            c.execute(sa.insert(SESSIONS).values(**values))
            return True

        if not self.store.write(begin):
            raise SignInError("there is nobody of that name with that token")
        return secret

    def session(self, secret: str) -> Session | None:
        """Who is signed in with a secret; None where that is over, or never was."""
        mine = sa.and_(SESSIONS.c.hash == _hash(secret), SESSIONS.c.person == REVIEWERS.c.name)
        query = sa.select(REVIEWERS, SESSIONS.c.ends).where(mine)

        def work(c: Connection) -> RowMapping | None:
            return c.execute(query.where(SESSIONS.c.ends > self.store.now(c))).mappings().first()

        row = self.store.read(work)
        if row is None:
            return None
        csrf = hmac.digest(_bytes(secret), b"csrf", "sha256").hex()
        return Session(read_person(row), csrf, datetime.fromtimestamp(row["ends"] / 1000, UTC))

    def sign_out(self, secret: str) -> None:
        """End a session, if there is one."""
        query = sa.delete(SESSIONS).where(SESSIONS.c.hash == _hash(secret))
        self.store.write(lambda c: c.execute(query) and None)

    @cached_property
    def _nobodys_token(self) -> str:
        return self.hasher.hash(token_urlsafe(33))

    def _attempt(
        self, c: Connection, name: str, shown: bytes, *, count: bool = False
    ) -> RowMapping | None:
        """The row of whoever's tag is shown, unless it is too early for another try."""
        row = reviewer_row(c, name)
        if row is not None and not hmac.compare_digest(row["tag"].encode(), shown[:_TAG]):
            row = None
        seconds = pause(c, name if row else STRANGERS, self.store.now(c), count=count)
        if seconds:
            raise SignInError(f"too many wrong tokens; try again in {seconds} s")
        return row


def told_of(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What the chain says of a reviewer's row."""
    key = sha256(f"{row['tag']} {row['token']}".encode()).hexdigest()
    return {"role": row["role"], "groups": row["groups"], "token": f"sha256:{key}"}


def _hash(secret: str) -> str:
    return sha256(_bytes(secret)).hexdigest()


def _bytes(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogatepass")
