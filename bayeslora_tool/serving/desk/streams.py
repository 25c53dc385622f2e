"""Says when the ledger has changed: one look a second for all who listen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from time import monotonic

from anyio import to_thread

from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.serving.door import MAX_CONNECTIONS

logger = logging.getLogger(__name__)

_SIGN_OF_LIFE = 15.0  # seconds after which a silent line says that it is there
_LONGEST = 600.0  # then the browser comes again, and shows who it is


class Heads:
    """The number of the last event, told to all who listen.

    Args:
        look: Gives the number; called in a thread.
        every: Seconds between two looks, > 0.
        most: Who may listen at once: the other connections are for pages.
    """

    def __init__(
        self, look: Callable[[], int], *, every: float = 1.0, most: int = MAX_CONNECTIONS // 2
    ) -> None:
        self._look = look
        self._most = most
        self._every = every
        self._seq: int | None = None
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None

    @property
    def listeners(self) -> int:
        """How many listen."""
        return self._listeners

    @property
    def full(self) -> bool:
        """Whether nobody else may listen just now."""
        return self._listeners >= self._most

    def close(self) -> None:
        """End all streams."""
        self._over.set()
        self._news.set()

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events, ``head`` with the number as data, the first at once."""
        self._listeners += 1
        try:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._watch())
            ends, told = monotonic() + _LONGEST, None
            yield "retry: 2000\n\n"
            while not self._over.is_set() and monotonic() < ends:
                if self._seq not in (None, told):
                    told = self._seq
                    yield f"event: head\ndata: {told}\n\n"
                news = self._news
                try:
                    async with asyncio.timeout(_SIGN_OF_LIFE):
                        await news.wait()
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self._listeners -= 1

    async def _watch(self) -> None:
        """Look while anybody listens."""
        while self._listeners and not self._over.is_set():
            try:
                seq = await to_thread.run_sync(self._look)
            except LedgerError as error:  # those who listen hear when it is back
                logger.warning("%s", error)
            else:
                if seq != self._seq:
                    self._seq = seq
                    self._news.set()
                    if not self._over.is_set():
                        self._news = asyncio.Event()
            try:
                async with asyncio.timeout(self._every):
                    await self._over.wait()
            except TimeoutError:
                continue
