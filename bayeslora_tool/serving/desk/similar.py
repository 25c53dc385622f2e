"""Settled reviews like the one that is open, by what a backbone makes of their texts.

Nothing waits for it: a thread loads the model when somebody first asks, and reads what was settled
since. Until it is ready, there is nothing similar.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread
from typing import Any, NamedTuple, Protocol

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.roles import Person, may
from bayeslora_tool.desk.steps import JOINED, read_joined
from bayeslora_tool.desk.tables import REVIEWS
from bayeslora_tool.workers import begin_anew_after_fork

logger = logging.getLogger(__name__)

MOST = 20_000
"""Reviews that are kept, the latest; with 384 numbers each in half precision 15 MB."""

_AT_ONCE = 64  # texts
_LONGEST = 2000  # characters that are read of a text; models read less
_PAUSE = 1.0  # seconds between two looks at the ledger

_DECIDED = sa.and_(
    REVIEWS.c.state.in_(("decided", "applied")),
    REVIEWS.c.decided_by.is_not(None),
    REVIEWS.c.text.is_not(None),
)
"""Not what has expired, nor what was erased."""


class Embeds(Protocol):
    """What gives texts a place; ``BayesLoRAClassifier`` does."""

    def embed(self, texts: Sequence[str]) -> Any:
        """(N, d), at norm 1."""
        ...


class SimilarReviews:
    """Finds settled reviews like one.

    Thread-safe. Memory is bounded by :data:`MOST`.

    Args:
        ledger: Of the reviews.
        load: Gives the classifier; called once, in a thread, when somebody first asks.
        most: Reviews that are kept, >= 1.
    """

    def __init__(self, ledger: Ledger, load: Callable[[], Embeds], *, most: int = MOST) -> None:
        self.ledger, self._load, self.most = ledger, load, most
        self.after_fork()
        begin_anew_after_fork(self)

    def after_fork(self) -> None:
        """The thread is the parent's: the child begins anew, when somebody asks."""
        self._lock = Lock()  # of all below
        self._thread: Thread | None = None
        self._wanted, self._ready = Event(), Event()
        self._model: Embeds | None = None
        self._known: dict[str, _Known] = {}  # by id, in the order of their decisions
        self._until = (-1, "")  # when the last one that was read was decided, and its id

    def __call__(self, review: FiledReview, who: Person, most: int = 5) -> list[FiledReview]:
        """The most alike first, of those that a person may read; empty while none is known.

        Args:
            review: With a text, else there is nothing.
            who: Asks.
            most: So many at most, >= 1.
        """
        self._begin()
        if review.text is None or not self._ready.is_set():
            return []
        with self._lock:
            known = {
                name: one.place
                for name, one in self._known.items()
                if name != review.id and may(who, {"group": one.group}, "read")
            }
            if not known:
                return []
            place = self._embedded([review.text])[0].astype(np.float32)
        names = list(known)
        alike = np.stack([*known.values()]).astype(np.float32) @ place
        # Some more than are asked for: an answer may have been taken back, a text erased.
        best = [names[i] for i in np.argsort(-alike, kind="stable")[: 2 * most]]
        rows = self.ledger.store.read(lambda c: _reviews(c, best))
        found = [rows[name] for name in best if name in rows]
        return [one for one in found if may(who, one, "read")][:most]

    def wait(self, seconds: float) -> bool:
        """Wait until all that is settled has been read once; whether it has.

        Args:
            seconds: At most, > 0.
        """
        self._begin()
        return self._ready.wait(seconds)

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._work, name="similar reviews", daemon=True)
                self._thread.start()
        self._wanted.set()

    def _work(self) -> None:
        try:
            self._model = self._load()
        except Exception:  # of whatever loads it: the desk works without
            logger.exception("there are no similar reviews: the classifier did not load")
            return
        while True:
            self._wanted.wait()
            self._wanted.clear()
            try:
                while self._read_on():
                    pass
                self._ready.set()
            except Exception:  # of the database, or of the model
                logger.exception("settled reviews were not read; the next look tries again")
            time.sleep(_PAUSE)

    def _read_on(self) -> bool:
        """Take in some of the reviews that were settled since; whether there were any."""
        rows = self.ledger.store.read(lambda c: _settled(c, self._until, self.most))
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            with self._lock:  # who asks meanwhile waits for some texts, not for all
                places = self._embedded([json.loads(row.text) for row in some])
                for row, place in zip(some, places, strict=True):
                    self._known.pop(row.id, None)  # decided, taken back, and decided again
                    self._known[row.id] = _Known(row.group, place)
                for name in [*self._known][: max(0, len(self._known) - self.most)]:
                    del self._known[name]
            self._until = (some[-1].decided_at, some[-1].id)
        return bool(rows)

    def _embedded(self, texts: Sequence[str]) -> Any:
        assert self._model is not None
        places = self._model.embed([text[:_LONGEST] for text in texts])
        return np.asarray(places).astype(np.float16)


class _Known(NamedTuple):
    group: str | None
    place: NDArray[np.float16]  # (d,)


def _settled(c: Connection, after: tuple[int, str], most: int) -> Sequence[Any]:
    """Reviews that people decided after another one; of very many the latest."""
    columns = [REVIEWS.c[name] for name in ("id", "text", "group", "decided_at")]
    key = sa.tuple_(REVIEWS.c.decided_at, REVIEWS.c.id)
    query = (
        sa.select(*columns)
        .where(_DECIDED, key > sa.tuple_(*after, types=[sa.BigInteger, sa.String]))
        .order_by(REVIEWS.c.decided_at.desc(), REVIEWS.c.id.desc())
        .limit(most)
    )
    return c.execute(query).all()[::-1]


def _reviews(c: Connection, names: Sequence[str]) -> dict[str, FiledReview]:
    query = JOINED.where(REVIEWS.c.id.in_(names), _DECIDED)
    return {row["id"]: read_joined(row) for row in c.execute(query).mappings()}
