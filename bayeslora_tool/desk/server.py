"""A LangGraph server's threads at the desk: what they ask is filed, what is decided is answered.

The server has the threads, and runs them; it is asked by its SDK. What it took from us it knows by
the run's metadata, which names the review: so whoever finds a decision begun finds out there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Event
from typing import Any, Self
from urllib.parse import urlsplit

from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import NotFoundError

from bayeslora_tool.desk.answer import for_reviewers, shown_scores, tools_of
from bayeslora_tool.desk.applying import Applied, Carrier, Result, apply_next
from bayeslora_tool.desk.conversation import conversation
from bayeslora_tool.desk.filing import found_in_graph
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.reconciling import Reconciled
from bayeslora_tool.desk.review import FiledReview, Question, digest_of
from bayeslora_tool.desk.routing import check_due
from bayeslora_tool.desk.states import UNDECIDED
from bayeslora_tool.desk.working import work

_PAGE = 100  # threads, or runs, that are read at once
_REVIEW = "bayeslora_review"  # in a run's metadata


class Server:
    """Files what the threads of a LangGraph server ask, and carries out what is decided.

    The names of its graphs in the ledger end in ``@`` and the server's host and port. The API key
    is the SDK's affair: ``LANGGRAPH_API_KEY`` or its like.

    Args:
        ledger: Where reviews are kept.
        url: Of the server.
        lease: Seconds after which another process may carry out what this one began and left, > 0.
        due: Seconds until a review that nobody decides expires and rejects, > 0; None: never.
        client: Of langgraph_sdk, sync; None: one for ``url``.

    Raises:
        ValueError: ``url`` is none, or ``due`` will not do.
    """

    def __init__(
        self,
        ledger: Ledger,
        url: str,
        *,
        lease: float = 60.0,
        due: float | None = None,
        client: Any = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise ValueError("`url` must be the http:// or https:// address of a LangGraph server")
        check_due(due)
        self.ledger = ledger
        self.lease = lease
        self.due = due
        self._suffix = f"@{parts.netloc}"
        self._client = client or get_sync_client(url=url)

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sync(self) -> Reconciled:
        """File what interrupted threads ask, and withdraw what is asked no more.

        Raises:
            LedgerError: The ledger does not answer.
            httpx.HTTPError: The server does not.
        """
        # In this order: what is filed while we look at the threads, we know nothing of.
        seen: dict[tuple[str, str], list[str]] = {}
        for name in self._graphs():
            for review in self.ledger.reviews(*UNDECIDED, graph=name):
                seen.setdefault((name, review.thread), []).append(review.id)
        done = Reconciled(0, 0)
        for thread in self._interrupted():
            place = self._name(thread), str(thread["thread_id"])
            done += self._reconcile(thread, seen.pop(place, []))
        for (_, name), reviews in seen.items():
            done += self._look(name, reviews)
        return done

    def apply(self) -> list[Applied]:
        """Carry out all that is decided and that nobody is at.

        Raises:
            LedgerError: The ledger does not answer.
        """
        self.ledger.keep_time()
        carriers = {name: Carrier(self._carry) for name in self._graphs()}
        done = []
        while (
            one := apply_next(self.ledger, carriers, lease=self.lease, takeover=False)
        ) is not None:
            done.append(one)
            if one.result == "withdrawn":  # perhaps the thread asks something else now
                self._look(self.ledger.review(one.review).thread, [])
        return done

    def work(self, stop: Event, *, every: float = 1.0, retain: float | None = None) -> None:
        """As :meth:`Desk.work <bayeslora_tool.desk.desk.Desk.work>`."""
        work(self.ledger, self.sync, self.apply, stop, every, retain)

    def _graphs(self) -> list[str]:
        return [name for name in self.ledger.graphs() if name.endswith(self._suffix)]

    def _name(self, thread: Mapping[str, Any]) -> str:
        return f"{(thread['metadata'] or {}).get('graph_id', 'graph')}{self._suffix}"

    def _interrupted(self) -> Iterator[Mapping[str, Any]]:
        offset = 0
        while True:
            page = self._client.threads.search(
                status="interrupted",
                limit=_PAGE,
                offset=offset,
                sort_by="created_at",
                sort_order="asc",
            )
            yield from page
            if len(page) < _PAGE:
                return
            offset += _PAGE

    def _look(self, name: str, seen: list[str]) -> Reconciled:
        try:
            thread = self._client.threads.get(name)
        except NotFoundError:
            return self.ledger.reconcile([], seen)
        if thread["status"] == "busy":  # what it comes to will be seen
            return Reconciled(0, 0)
        return self._reconcile(thread, seen)

    def _reconcile(self, thread: Mapping[str, Any], seen: list[str]) -> Reconciled:
        asked = [
            self._question(thread, one)
            for one in _interrupts(thread).values()
            if for_reviewers(one["value"])
        ]
        return self.ledger.reconcile(asked, seen, due=self.due)

    def _question(self, thread: Mapping[str, Any], interrupt: Mapping[str, Any]) -> Question:
        request = interrupt["value"]
        found = found_in_graph(thread["values"])
        told = {"text": shown_scores(request).get("text")} if found is None else found._asdict()
        return Question(
            graph=self._name(thread),
            thread=str(thread["thread_id"]),
            interrupt=interrupt["id"],
            request=request,
            schema=interrupt.get("response_schema"),
            tool=tools_of(request),
            conversation=conversation(thread["values"]),
            **told,
        )

    def _carry(self, review: FiledReview, begun_before: bool, takeover: bool) -> Result:
        try:
            thread = self._client.threads.get(review.thread)
        except NotFoundError:
            return "withdrawn"
        run = self._begun(review) if begun_before else None
        if run is None or run["status"] in ("error", "timeout"):
            if thread["status"] == "busy":
                raise RuntimeError("the thread is being run by somebody else")
            asked = _interrupts(thread).get(review.interrupt)
            if asked is not None and digest_of(asked["value"]) == review.shown:
                run = self._run(thread, review, {"resume": {review.interrupt: review.answer}})
            elif run is not None:  # it broke off with our answer taken
                run = self._run(thread, review, None)
            else:
                return "withdrawn"
        self._client.runs.join(review.thread, run["run_id"])
        ended = self._client.runs.get(review.thread, run["run_id"])["status"]
        if ended not in ("success", "interrupted"):
            raise RuntimeError(f"the server's run ended with {ended!r}; its log says why")
        asked = _interrupts(self._client.threads.get(review.thread)).get(review.interrupt)
        if asked is not None and digest_of(asked["value"]) == review.shown:
            raise RuntimeError("the server did not take the answer: the thread still asks the same")
        return "applied"

    def _run(self, thread: Mapping[str, Any], review: FiledReview, command: Any) -> Any:
        metadata = thread["metadata"] or {}
        where = {} if review.decided_by is None else {"reviewer": review.decided_by}
        return self._client.runs.create(
            review.thread,
            metadata.get("assistant_id") or metadata["graph_id"],
            command=command,
            config={"configurable": where},
            metadata={_REVIEW: review.id},
            multitask_strategy="reject",
        )

    def _begun(self, review: FiledReview) -> Any:
        """The newest run that was begun for a review."""
        offset = 0
        while True:
            page = self._client.runs.list(review.thread, limit=_PAGE, offset=offset)
            for run in page:
                if (run["metadata"] or {}).get(_REVIEW) == review.id:
                    return run
            if len(page) < _PAGE:
                return None
            offset += _PAGE


def _interrupts(thread: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a thread waits for, by the id of the interrupt."""
    return {one["id"]: one for asked in (thread["interrupts"] or {}).values() for one in asked}
