"""Carry decisions out on their threads, each once.

Which store promises what: the ledger has the one decision, and who carries it out until when; the
checkpointer has the one answer that counts on a thread. A process that dies here leaves a decided
review and, at most, an answer that was taken. The next one finds either, by comparing the two:
answers what still waits, recovers what broke off, and remembers what was through.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from langchain_core.runnables import RunnableConfig
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.chain import head_of
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.review import FiledReview, canonical, digest_of, read_row
from bayeslora_tool.desk.seal import seal_of
from bayeslora_tool.desk.states import TO_APPLY
from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.desk.tables import REVIEWS, WORK
from bayeslora_tool.graphs.runs import heard, pending, recover, resume
from bayeslora_tool.graphs.thread import ThreadError
from bayeslora_tool.graphs.turn import Graph
from bayeslora_tool.review.answer_types import judged_elsewhere

Result = Literal["applied", "withdrawn", "failed"]

_LONGEST_REST = 600  # seconds between two tries
_WORDS = 500  # of a problem


class Applied(NamedTuple):
    """What came of one decision."""

    review: str
    result: Result
    """``failed``: it will be tried again, later each time; ``problem`` says why."""

    problem: str | None = None


class Carrier(NamedTuple):
    """What carries decisions out, of the reviews that are filed under one name."""

    carry: Callable[[FiledReview, bool, bool], Result]
    """Given a review, whether somebody has begun to carry it out before, and ``takeover``."""

    heard: Callable[[FiledReview], object] | None = None
    """Given an audit that was decided; None: nobody wants to hear of those."""


class _Task(NamedTuple):
    """A decision that this process may carry out."""

    review: FiledReview
    begun_before: bool
    gone_elsewhere: bool
    """A process on another machine had it, and let its lease run out."""


def apply_next(
    ledger: Ledger, carriers: Mapping[str, Carrier], *, lease: float, takeover: bool
) -> Applied | None:
    """Carry out one decision that nobody is at; None if there is none.

    Args:
        ledger: Of the decisions.
        carriers: By the names that reviews are filed under.
        lease: Seconds for which nobody else may carry it out; prolonged while this process lives.
        takeover: As for ``resume``.

    Raises:
        LedgerError: The ledger does not answer; what was done is found out by the next try.
    """
    me = f"{platform.node()} {os.getpid()} {uuid4().hex[:8]}"
    task = ledger.store.write(lambda c: _take(c, ledger, me, carriers, lease))
    if task is None:
        return None
    review, problem = task.review, None
    result: Result
    with _held(ledger, review.id, me, lease):
        try:
            takeover = takeover or task.gone_elsewhere
            carrier = carriers[review.graph]
            if review.audit:
                assert carrier.heard is not None, "only such audits are taken"
                carrier.heard(review)
                result = "applied"
            else:
                result = carrier.carry(review, task.begun_before, takeover)
        except LedgerError:
            raise
        except Exception as error:  # of the graph, its tools or its checkpointer: try again later
            result, problem = "failed", f"{type(error).__name__}: {error}"[:_WORDS]
    if result == "applied":
        ledger.applied(review.id)
    elif result == "withdrawn":
        ledger.withdraw(review.id)
    else:
        ledger.store.write(lambda c: _rest(c, ledger, review.id, me, problem or ""))
    return Applied(review.id, result, problem)


def carry_out(graph: Graph, review: FiledReview, begun_before: bool, takeover: bool) -> Result:
    """Answer a decided review's thread, unless that was done or it asks something else by now."""
    where: dict[str, Any] = {"thread_id": review.thread}
    if review.decided_by is not None:
        where["reviewer"] = review.decided_by
    config: RunnableConfig = {"configurable": where}
    waiting = pending(graph, config)
    if review.interrupt in waiting:
        if digest_of(waiting[review.interrupt]) != review.shown:
            return "withdrawn"  # what they saw is not what would run
        resume(graph, config, {review.interrupt: review.answer}, takeover=takeover)
        return "applied"
    answer = heard(graph, config, review.interrupt)
    if answer is None:
        # LangGraph itself keeps the answers to questions that are not ours.
        foreign = review.schema is None or judged_elsewhere(review.schema)
        if not (begun_before and foreign):
            return "withdrawn"
    elif canonical(answer["answer"]) != canonical(review.answer):
        return "withdrawn"  # another was taken
    try:
        recover(graph, config, takeover=takeover)
    except ThreadError as error:
        if error.problem not in ("finished", "pending"):
            raise
    return "applied"


def _take(
    c: Connection, ledger: Ledger, me: str, carriers: Mapping[str, Carrier], lease: float
) -> _Task | None:
    head_of(c, lock=True)  # one after another
    hear = [name for name, carrier in carriers.items() if carrier.heard is not None]
    # Of an audit the label is left when its answer is erased.
    calls = sa.and_(REVIEWS.c.audit.is_(False), REVIEWS.c.answer.is_not(None))
    wanted = sa.or_(calls, sa.and_(REVIEWS.c.audit, REVIEWS.c.graph.in_(hear)))
    now = ledger.store.now(c)
    query = (
        sa.select(REVIEWS, WORK.c.holder)
        .outerjoin(WORK, WORK.c.review == REVIEWS.c.id)
        .where(REVIEWS.c.state.in_(TO_APPLY), wanted, REVIEWS.c.graph.in_([*carriers]))
        .where(sa.or_(REVIEWS.c.undo_until.is_(None), REVIEWS.c.undo_until <= now))
        .where(sa.or_(WORK.c.until.is_(None), WORK.c.until <= now))
        .order_by(REVIEWS.c.decided_at, REVIEWS.c.id)
        .limit(1)
    )
    row = c.execute(query).mappings().one_or_none()
    if row is None:
        return None
    until = now + round(1000 * lease)
    if row["holder"] is None:
        first = {"review": row["id"], "holder": me, "until": until, "tries": 0}
        c.execute(sa.insert(WORK).values(**first))
    else:
        mine = {"holder": me, "until": until, "tries": WORK.c.tries + 1}
        c.execute(sa.update(WORK).where(WORK.c.review == row["id"]).values(**mine))
    last = (row["holder"] or "").split(" ")[0]
    return _Task(read_row(row), bool(last), last not in ("", platform.node().split(" ")[0]))


def _rest(c: Connection, ledger: Ledger, name: str, me: str, problem: str) -> None:
    """Let a decision rest that could not be carried out, longer each time."""
    mine = sa.and_(WORK.c.review == name, WORK.c.holder == me)
    tries = c.execute(sa.select(WORK.c.tries).where(mine)).scalar_one_or_none()
    if tries is not None:
        until = ledger.store.now(c) + 1000 * min(2**tries, _LONGEST_REST)
        c.execute(
            sa.update(WORK).where(mine).values(until=until, problem=seal_of(c).close(problem))
        )


@contextmanager
def _held(ledger: Ledger, name: str, me: str, lease: float) -> Iterator[None]:
    """Prolong the lease of a decision for as long as this takes."""
    over = Event()
    mine = sa.and_(WORK.c.review == name, WORK.c.holder == me)

    def prolong(c: Connection) -> None:
        until = ledger.store.now(c) + round(1000 * lease)
        c.execute(sa.update(WORK).where(mine).values(until=until))

    def keep() -> None:
        while not over.wait(lease / 3):
            with suppress(LedgerError):  # the next time
                ledger.store.write(prolong)

    keeper = Thread(target=keep, name="desk lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
