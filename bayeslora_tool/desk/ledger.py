"""The ledger: every review, who may decide it, and the one decision that counts.

What holds: each change is one transaction under the lock of the chain's head, with its event in it,
so of two who decide one wins, in whatever processes, and the other reads who did. A change that was
tried again because its connection was lost finds what it did the first time. Nothing here touches a
thread; ``applying.py`` does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.chain import Writer, head_of
from bayeslora_tool.desk.deciding import LEASE, claim, decide, release, undo
from bayeslora_tool.desk.erasing import erase
from bayeslora_tool.desk.inbox import Filter, Inbox, Order, count, page
from bayeslora_tool.desk.lapsing import keep_time
from bayeslora_tool.desk.names import THE_DESK
from bayeslora_tool.desk.people import People
from bayeslora_tool.desk.reconciling import Reconciled, reconcile
from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.desk.review import FiledReview, Question, read_row, votes_of
from bayeslora_tool.desk.roles import Person
from bayeslora_tool.desk.routing import Route, route_of
from bayeslora_tool.desk.seal import Seal, use
from bayeslora_tool.desk.states import STATES, TRANSITIONS, UNDECIDED, State
from bayeslora_tool.desk.steps import JOINED, find, move, read_again, read_joined
from bayeslora_tool.desk.store import Store
from bayeslora_tool.desk.tables import EVENTS, REVIEWS, WORK
from bayeslora_tool.desk.verifying import Damage, damages
from bayeslora_tool.desk.webhooks import Webhooks

_HASH = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{1,16}")
_PAGE = 500  # reviews in memory


class Vote(NamedTuple):
    """An answer to a review that two have to answer."""

    by: str
    answer: Any
    at: datetime


class Ledger:
    """A database of reviews, made where there is none.

    Args:
        place: A file for SQLite, or ``postgresql+psycopg://user@host/name``.
        create: False: an error where there is no ledger yet.
        patience: Seconds to wait for a database that is locked, restarts or is away, > 0.
        key: Fernet keys, separated by commas, with which what people wrote is encrypted: the first
            encrypts, all of them read. None: those of ``BAYESLORA_DESK_KEY``, if it is set.

    Attributes:
        people: Who may sign in.
        webhooks: Who hears of reviews.

    Raises:
        LedgerError: The database does not answer; so for each method.
        FileNotFoundError: There is no ledger, and none was to be made.
        ValueError: ``place`` is neither, a later version has made the ledger, or ``key`` is none.
    """

    def __init__(
        self,
        place: str | Path = "desk.sqlite",
        *,
        create: bool = True,
        patience: float = 10.0,
        key: str | None = None,
    ) -> None:
        seal = Seal(key)
        self.store = Store(place, create=create, patience=patience)
        use(seal, self.store.engine.dialect)
        self.people = People(self.store)
        self.webhooks = Webhooks(self.store)

    def close(self) -> None:
        """Let go of the database."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What there is

    def reviews(
        self,
        *states: State,
        graph: str | None = None,
        thread: str | None = None,
        limit: int | None = None,
    ) -> list[FiledReview]:
        """Those in these states (none given: in any), by priority, then due, then age."""
        for state in states:
            if state not in STATES:
                raise ValueError(f"unknown state {state!r}; one of {', '.join(STATES)}")

        def work(c: Connection) -> list[FiledReview]:
            query = JOINED
            if states:
                query = query.where(REVIEWS.c.state.in_(states))
            if graph is not None:
                query = query.where(REVIEWS.c.graph == graph)
            if thread is not None:
                query = query.where(REVIEWS.c.thread == thread)
            return [read_joined(row) for row in c.execute(query.limit(limit)).mappings()]

        keep_time(self.store)
        return self.store.read(work)

    def inbox(
        self,
        wanted: Filter | None = None,
        *,
        order: Order = "urgency",
        after: str | None = None,
        limit: int = 50,
    ) -> Inbox:
        """A page of the reviews that somebody wants to see.

        Args:
            wanted: Which; None: all.
            order: In which order.
            after: ``next`` of the page before; None: the first page.
            limit: Reviews on it, from 1 to 1000.

        Raises:
            ValueError: An argument will not do.
        """
        keep_time(self.store)
        return self.store.read(lambda c: page(c, wanted or Filter(), order, after, limit))

    def counts(self, wanted: Filter | None = None) -> dict[State, int]:
        """How many reviews are in each state, of those that somebody wants to see.

        A text that is looked for is not: it would have to be looked for in all of them.
        """
        keep_time(self.store)
        return self.store.read(lambda c: count(c, wanted or Filter()))

    def review(self, name: str) -> FiledReview:
        """One, by its id or the beginning of it.

        Raises:
            ReviewError: ``unknown``, or several begin so.
        """

        def work(c: Connection) -> list[FiledReview]:
            query = JOINED.where(REVIEWS.c.id.between(name, f"{name}g")).order_by(None).limit(2)
            return [read_joined(row) for row in c.execute(query).mappings()]

        keep_time(self.store)
        # In the order of an index, whatever the language of the database: as ids of ours are.
        found = self.store.read(work) if _ID.fullmatch(name) else []
        if len(found) != 1:
            many = "several reviews begin" if found else "no review begins"
            raise ReviewError("unknown", f"{many} with {name!r:.40}; `list` shows their ids")
        return found[0]

    def verify(self, known: str | None = None) -> list[Damage]:
        """What was changed, taken away or put elsewhere behind the ledger's back; empty if nothing.

        Args:
            known: Hash of a head noted before (:meth:`head`): without it, nobody can tell a ledger
                from one that was written anew from its first event.

        Raises:
            ValueError: ``known`` is no such hash.
        """
        if known is not None and not _HASH.fullmatch(known):
            raise ValueError(
                f"`head` (={known!r:.70}) must be 64 hexadecimal digits, as `verify` has shown them"
            )
        return self.store.read(lambda c: list(damages(c, known)))

    def head(self) -> tuple[int, str]:
        """Number and hash of the last event; note it where nobody can change it."""
        head = self.store.read(head_of)
        return head.seq, head.hash

    def votes(self, name: str) -> list[Vote]:
        """Who answered what to a review that two had to answer; nothing before it is decided."""
        row = self.store.read(lambda c: find(c, name))
        if row["state"] in UNDECIDED:
            return []
        return [
            Vote(one["by"], one["answer"], datetime.fromtimestamp(one["at"] / 1000, UTC))
            for one in votes_of(row)
        ]

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """What happened to a review, in order: ``seq``, ``step``, ``at``, ``by`` and more."""
        mine = sa.and_(EVENTS.c.subject == name, EVENTS.c.step.in_(TRANSITIONS))
        query = sa.select(EVENTS).where(mine).order_by(EVENTS.c.seq)
        return self.store.read(lambda c: [dict(row) for row in c.execute(query).mappings()])

    # What reviewers do

    def claim(self, name: str, by: str | Person, *, lease: float = LEASE) -> FiledReview:
        """Take a review, so that nobody else decides it meanwhile; again: for longer.

        Args:
            name: Id of the review.
            by: Who takes it. Of a person, it is asked whether they may; here, and below.
            lease: Seconds after which it is open again, > 0.

        Raises:
            ReviewError: See its ``problem``.
            ValueError: ``by`` or ``lease`` will not do.
        """
        if not 0 < lease < inf:
            raise ValueError(f"`lease` (={lease!r}) must be a number of seconds > 0")
        return self.store.write(lambda c: claim(self._writer(c), name, by, lease))

    def release(self, name: str, by: str | Person) -> FiledReview:
        """Give a claimed review back.

        Raises:
            ReviewError: It is not claimed by them.
        """
        who = by.name if isinstance(by, Person) else by
        theirs = False

        def work(c: Connection) -> FiledReview:
            nonlocal theirs
            change, row = self._writer(c), find(c, name)
            if theirs and row["assignee"] != who:  # tried again, and was through the first time
                return read_again(c, row)
            theirs = row["assignee"] == who
            return release(change, name, by)

        return self.store.write(work)

    def decide(self, name: str, answer: Any, by: str | Person, *, undo: float = 0.0) -> FiledReview:
        """Decide a review, once and for all, or give the first of two answers.

        The answer counts for what its id stands for: exactly the request that was filed. If the
        thread asks something else by the time it is carried out, that is filed as another review.

        Args:
            name: Id of the review.
            answer: As for :func:`~bayeslora_tool.graphs.runs.resume`.
            by: Who decides; a ``reviewer`` in the answer gives way to it.
            undo: Seconds for which they may take it back, and nobody carries it out, >= 0.

        Returns:
            The review, ``open`` where another has to agree, or else ``decided``; the same again if
            they gave the same answer before.

        Raises:
            ReviewError: See its ``problem``; who decided is in the message and in ``review``.
            ValueError: The answer makes no sense to what was asked, or ``by`` will not do.
        """
        if not 0 <= undo < inf:
            raise ValueError(f"`undo` (={undo!r}) must be a number of seconds >= 0")
        return self.store.write(lambda c: decide(self._writer(c), name, answer, by, undo))

    def undo(self, name: str, by: str | Person) -> FiledReview:
        """Take the last answer to a review back; it is claimed by who gave it, as before.

        Args:
            name: Id of the review.
            by: Who gave the answer.

        Raises:
            ReviewError: It is not theirs, or cannot be taken back any more (``late``).
        """
        return self.store.write(lambda c: undo(self._writer(c), name, by))

    # What the desk does

    def undecided(self, graph: str, thread: str) -> list[str]:
        """Ids of the reviews that one thread waits for and that nobody has decided."""
        mine = sa.and_(
            REVIEWS.c.graph == graph, REVIEWS.c.thread == thread, REVIEWS.c.audit.is_(False)
        )
        query = sa.select(REVIEWS.c.id).where(mine, REVIEWS.c.state.in_(UNDECIDED))
        return self.store.read(lambda c: list(c.execute(query).scalars()))

    def filed(self, names: Sequence[str]) -> set[str]:
        """Which of these ids are those of reviews."""
        found: set[str] = set()
        for i in range(0, len(names), _PAGE):
            query = sa.select(REVIEWS.c.id).where(REVIEWS.c.id.in_(names[i : i + _PAGE]))
            found |= set(self.store.read(lambda c, query=query: c.execute(query).scalars().all()))  # type: ignore[misc]
        return found

    def graphs(self) -> list[str]:
        """The names under which reviews are filed."""
        query = sa.select(REVIEWS.c.graph).distinct().order_by(REVIEWS.c.graph)
        return self.store.read(lambda c: list(c.execute(query).scalars()))

    def keep_time(self) -> None:
        """Return claims whose lease is over, and pass on or let expire what was due."""
        while keep_time(self.store):
            pass

    def reconcile(
        self,
        asked: Sequence[Question],
        seen: Collection[str] = (),
        *,
        due: float | None = None,
        priority: int = 0,
        routes: Sequence[Route] = (),
    ) -> Reconciled:
        """File what threads ask, each once, and withdraw what they no longer ask.

        Args:
            asked: What they ask now.
            seen: Ids of undecided reviews that were in the ledger before one looked at the
                threads: those that are not among ``asked`` are withdrawn.
            due: Seconds until a new review expires, > 0; None: never.
            priority: Of new reviews.
            routes: Where new reviews go: each by the first that fits, or else to everybody.
        """
        return reconcile(
            self.store,
            asked,
            seen,
            lambda question: route_of(question, routes, due=due, priority=priority),
        )

    def withdraw(self, name: str) -> FiledReview:
        """Take back a review, decided or not, that its thread no longer asks."""

        def work(c: Connection) -> FiledReview:
            change, row = self._writer(c), find(c, name)
            if row["state"] == "withdrawn":  # tried again
                return read_again(c, row)
            c.execute(sa.delete(WORK).where(WORK.c.review == row["id"]))
            return move(change, row, "withdrawn", THE_DESK, assignee=None, lease=None)

        return self.store.write(work)

    def applied(self, name: str) -> FiledReview:
        """Remember that a decision was carried out."""

        def work(c: Connection) -> FiledReview:
            change, row = self._writer(c), find(c, name)
            if row["state"] == "applied":  # tried again
                return read_again(c, row)
            c.execute(sa.delete(WORK).where(WORK.c.review == row["id"]))
            return move(change, row, "applied", THE_DESK, applied_at=change.now)

        return self.store.write(work)

    def erase(self, older_than: float) -> int:
        """Erase what people wrote from reviews that were settled so long ago.

        Settled are those that were applied or withdrawn, that expired with nothing to apply, and
        audits that were decided. What stays: who decided what and when, labels and scores; see
        ``docs/review-desk.md``.

        Args:
            older_than: Seconds since a review was settled, >= 0.

        Returns:
            How many were erased.

        Raises:
            ValueError: ``older_than`` will not do.
        """
        return erase(self.store, older_than)

    def decided(self) -> Iterator[FiledReview]:
        """What people have decided, the oldest first, read a few at a time: for an export.

        Those that expired, or were withdrawn, are left out.
        """
        after: Any = (-1, "")
        counts = sa.and_(
            REVIEWS.c.state.in_(("decided", "applied")), REVIEWS.c.decided_by.is_not(None)
        )
        place = sa.tuple_(REVIEWS.c.decided_at, REVIEWS.c.id)
        query = sa.select(REVIEWS).where(counts).order_by(REVIEWS.c.decided_at, REVIEWS.c.id)
        while True:
            some = query.where(place > after).limit(_PAGE)
            rows = self.store.read(lambda c, some=some: c.execute(some).mappings().all())  # type: ignore[misc]
            yield from map(read_row, rows)
            if len(rows) < _PAGE:
                return
            after = (rows[-1]["decided_at"], rows[-1]["id"])

    def _writer(self, connection: Connection) -> Writer:
        return Writer(connection, self.store.now)
