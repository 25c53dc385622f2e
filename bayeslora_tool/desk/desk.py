"""Ledger and graphs together: what graphs ask is filed, what people decide is carried out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from threading import Event
from typing import Any, NamedTuple, Protocol

from langgraph.checkpoint.serde.types import INTERRUPT

from bayeslora_tool.desk.applying import Applied, Carrier, apply_next, carry_out
from bayeslora_tool.desk.auditing import audit_keys, audits
from bayeslora_tool.desk.filing import questions
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.reconciling import Reconciled
from bayeslora_tool.desk.review import FiledReview, audit_id, check_storable
from bayeslora_tool.desk.routing import Route, check_due, check_routes
from bayeslora_tool.desk.states import UNDECIDED
from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.desk.watching import Watcher
from bayeslora_tool.desk.working import work
from bayeslora_tool.graphs.script import run
from bayeslora_tool.graphs.thread import ThreadError
from bayeslora_tool.graphs.turn import Graph, check_config, saver_of, view_of

logger = logging.getLogger(__name__)


class Labelled(Protocol):
    """Who learns from the labels of audits: a :class:`~bayeslora_tool.monitoring.Monitor`."""

    def audited(self, key: str, *, wrong: bool) -> None:
        """Take in one label."""
        ...


class _Watched(NamedTuple):
    graph: Graph
    due: float | None
    priority: int
    routes: tuple[Route, ...]
    labels: tuple[str, ...]
    monitor: Labelled | None


class Desk:
    """Files what graphs ask reviewers, and carries out what reviewers decide.

    ``graph = desk.watch(builder.compile(checkpointer=...))``, then use that graph in place of the
    other. A review is filed when its question is saved, once for each question, whatever runs again
    or dies; what a crash left out, :meth:`sync` finds. :meth:`work`, in this process or another
    that watches the same graph, carries decisions out.

    Args:
        ledger: Where reviews are kept.
        lease: Seconds after which another process may carry out what this one began and left, > 0.
    """

    def __init__(self, ledger: Ledger, *, lease: float = 60.0) -> None:
        if not 0 < lease < inf:
            raise ValueError(f"`lease` (={lease!r}) must be a number of seconds > 0")
        self.ledger = ledger
        self.lease = lease
        self._watched: dict[str, _Watched] = {}
        self._known: set[str] = set()  # audits that are filed

    def watch(
        self,
        graph: Graph,
        *,
        name: str | None = None,
        due: float | None = None,
        priority: int = 0,
        routes: Sequence[Route] = (),
        labels: Sequence[str] = (),
        monitor: Labelled | None = None,
    ) -> Graph:
        """The same graph, which files what it asks, and what of it shall be audited.

        Args:
            graph: Compiled with a checkpointer.
            name: Under which its reviews are filed, the same in each process; by default its own.
            due: Seconds until a review that nobody decides expires and rejects, > 0; None: never.
            priority: The higher, the sooner its reviews are worked off. Audits come after them.
            routes: Where its reviews go: each by the first that fits, or else to everybody.
            labels: That an audit may be given; empty: any.
            monitor: That watches the graph's policy: it learns each audit's label, once.

        Raises:
            ValueError: No checkpointer, or another graph is watched under that name, or a route
                leads nowhere.
        """
        saver_of(graph)
        name = name or graph.get_name()
        if name in self._watched:
            raise ValueError(f"`name` (={name!r}) is that of another graph; give each its own")
        check_due(due)
        check_routes(routes, due)
        watcher = Watcher(
            lambda thread: self._look(name, thread),
            lambda thread, keys: self._file_audits(name, thread, keys),
        )
        watched = graph.with_config(callbacks=[watcher])
        self._watched[name] = _Watched(
            watched, due, priority, tuple(routes), tuple(labels), monitor
        )
        return watched

    def sync(self) -> Reconciled:
        """Look at every thread of the watched graphs: file what they ask, withdraw what they don't.

        Raises:
            LedgerError: The ledger does not answer.
        """
        done = Reconciled(0, 0)
        for name, watched in self._watched.items():
            reviews = self.ledger.reviews(*UNDECIDED, graph=name)
            asks, audited = _survey(watched.graph, self._known)
            undecided = (one.thread for one in reviews if not one.audit)
            for thread in dict.fromkeys([*asks, *undecided]):
                with _one_of_many(name, thread):
                    done += self._look(name, thread)
            for thread, keys in self._unfiled(audited).items():
                with _one_of_many(name, thread):
                    done += self._file_audits(name, thread, keys)
        return done

    def apply(self, *, takeover: bool = False) -> list[Applied]:
        """Carry out all that is decided and that nobody is at.

        Args:
            takeover: The processes on other machines that worked on these threads are gone for
                good: see :func:`~bayeslora_tool.graphs.runs.resume`.

        Raises:
            LedgerError: The ledger does not answer.
        """
        self.ledger.keep_time()
        carriers = {name: _carrier(watched) for name, watched in self._watched.items()}
        done = []
        while (
            one := apply_next(self.ledger, carriers, lease=self.lease, takeover=takeover)
        ) is not None:
            done.append(one)
            if one.result == "withdrawn":  # perhaps the thread asks something else now
                review = self.ledger.review(one.review)
                self._look(review.graph, review.thread)
        return done

    def work(self, stop: Event, *, every: float = 1.0, retain: float | None = None) -> None:
        """Apply what is decided, file what was missed and tell webhooks, until told to stop.

        A ledger that is away is logged and waited for.

        Args:
            stop: Set it to end this.
            every: Seconds between two looks at the ledger, > 0.
            retain: Seconds after which what people wrote is erased from settled reviews, >= 0;
                None: never. See :meth:`Ledger.erase`.
        """
        work(self.ledger, self.sync, self.apply, stop, every, retain)

    def _unfiled(self, audited: dict[str, set[str]]) -> dict[str, set[str]]:
        """Of audits, by thread, those that the ledger lacks."""
        ids = {audit_id(thread, key): key for thread, keys in audited.items() for key in keys}
        self._known |= {ids[name] for name in self.ledger.filed([*ids])}
        left = {thread: keys - self._known for thread, keys in audited.items()}
        return {thread: keys for thread, keys in left.items() if keys}

    def _file_audits(self, name: str, thread: str, keys: set[str]) -> Reconciled:
        watched = self._watched[name]
        found = audits(name, thread, saver_of(watched.graph), keys, watched.labels)
        done = self.ledger.reconcile(found, priority=watched.priority, routes=watched.routes)
        self._known |= {str(one.key) for one in found}
        return done

    def _look(self, name: str, thread: str) -> Reconciled:
        watched = self._watched[name]
        check_storable("thread", thread)
        # In this order: what is filed while we look at the thread, we know nothing of.
        seen = self.ledger.undecided(name, thread)
        config: Any = {"configurable": {"thread_id": thread}}
        check_config(watched.graph, config)
        view = run(view_of(watched.graph, config))
        try:
            view.check_known()
            view.check_own()
        except ThreadError as error:  # nothing that we could tell
            logger.info("thread %r of %r: %s", thread, name, error)
            return Reconciled(0, 0)
        asked = questions(name, view, saver_of(watched.graph))
        return self.ledger.reconcile(
            asked, seen, due=watched.due, priority=watched.priority, routes=watched.routes
        )


def _carrier(watched: _Watched) -> Carrier:
    monitor = watched.monitor

    def heard(review: FiledReview) -> None:
        assert monitor is not None
        from bayeslora_tool.desk.figures import outcome_of, was_wrong  # with all of scipy

        wrong = was_wrong(outcome_of(review.decision), review.reviewer_label, review.label)
        monitor.audited(str(review.key), wrong=wrong)

    return Carrier(partial(carry_out, watched.graph), None if monitor is None else heard)


@contextmanager
def _one_of_many(name: str, thread: str) -> Iterator[None]:
    try:
        yield
    except LedgerError:
        raise
    except Exception:  # one that cannot be read keeps no other from being filed
        logger.exception("thread %r of %r was not looked at", thread, name)


def _survey(graph: Graph, known: Collection[str]) -> tuple[list[str], dict[str, set[str]]]:
    """Which threads of a graph's checkpointer ask something, and their audits.

    Args:
        graph: With the checkpointer.
        known: Keys of audits that need not be found again.

    Returns:
        The threads whose newest state has a question in it; and, by thread, the keys of audits.
    """
    newest: dict[str, tuple[str, bool, bool]] = {}
    audited: dict[str, set[str]] = {}
    for saved in saver_of(graph).list(None):
        where, values = saved.config["configurable"], saved.checkpoint["channel_values"]
        thread, number = str(where["thread_id"]), str(where["checkpoint_id"])
        if keys := audit_keys(values).difference(known):
            audited.setdefault(thread, set()).update(keys)
        if where.get("checkpoint_ns"):
            continue
        if number >= newest.get(thread, ("", False, False))[0]:
            asks = any(channel == INTERRUPT for _, channel, _ in saved.pending_writes or [])
            # Graphs that share a checkpointer have threads, but seldom channels, in common.
            newest[thread] = (number, asks, values.keys() <= graph.channels.keys())
    own = {thread for thread, (_, _, own) in newest.items() if own}
    asking = [thread for thread, (_, asks, _) in newest.items() if asks]
    return asking, {thread: keys for thread, keys in audited.items() if thread in own}
