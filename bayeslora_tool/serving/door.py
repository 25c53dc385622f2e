"""HTTP before a server of small JSON requests: who dawdles or sends too much is shown out.

Knows no model and no protocol but HTTP; logs nothing that a client sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
from itertools import chain
from typing import Any

import h11
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

READ_SECONDS = 10.0  # for a request's head, and again for its body
MAX_BYTES = 1 << 20  # of a body; a model reads a few hundred tokens of a text
MAX_DEPTH = 64  # of its JSON; the protocol itself needs five
MAX_CONNECTIONS = 512  # half of what a process may usually hold open


class Door:
    """Lets JSON requests of POST in, whole and in bounds; an error within is answered, not shown.

    Answers 405, 408, 413 and 400 by itself; 500 where the application raises.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] != "POST":
            await _answer(405, "only POST", {"Allow": "POST"})(scope, receive, send)
            return
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await read_body(receive)
        except TimeoutError:
            refusal = _answer(408, f"the body did not come within {READ_SECONDS:g} s")
            await refusal(scope, receive, send)
            return
        if body is None:
            return
        if refused := _refused(body):
            await refused(scope, receive, send)
            return
        await self._admit(body, scope, receive, send)

    async def _admit(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        begun = False

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, replay, note)
        except Exception as error:  # with a traceback, which may quote the request
            kind = type(error).__name__
            if begun:  # and gone: most likely so is the client
                logger.debug("a request ended with %s after its answer had begun", kind)
                return
            logger.error("a request could not be answered (%s)", kind)
            await _answer(500, "not answered")(scope, receive, send)


class Impatient(H11Protocol):
    """Drops a connection that takes its time over the head of a request; uvicorn waits."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As the base class."""
        super().connection_made(transport)
        self._look_again()

    def _look_again(self) -> None:
        self.loop.call_later(READ_SECONDS, self._drop_if_idle, self.cycle)

    def _drop_if_idle(self, last: Any) -> None:
        if self.transport.is_closing():
            return
        # A body that nobody waits for any more is let in, so that its client reads the answer.
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and self.cycle is last:
            self.transport.close()
        else:
            self._look_again()


def serve_http(app: ASGIApp, *, host: str, port: int) -> None:
    """Serve until the process is told to stop."""
    uvicorn.run(
        Door(app),
        host=host,
        port=port,
        http=Impatient,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=int(READ_SECONDS),
        access_log=False,  # a path may hold anything; each decision is logged already
        log_config=None,
    )


async def read_body(receive: Receive) -> bytes | None:
    """A request's body, more than ``MAX_BYTES`` of it if it is too long; None if who sent it left.

    Args:
        receive: As ASGI has it.
    """
    body = bytearray()
    while len(body) <= MAX_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


def _refused(body: bytes) -> PlainTextResponse | None:
    if len(body) > MAX_BYTES:
        return _answer(413, f"a body has at most {MAX_BYTES} bytes")
    try:
        level = [json.loads(body, parse_constant=_no_json)]
    except (ValueError, RecursionError):
        return _answer(400, "the body is not JSON")
    for _ in range(MAX_DEPTH):
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        level = list(chain.from_iterable(inner))
        if not level:
            return None
    return _answer(400, f"the body is nested more than {MAX_DEPTH} deep")


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _answer(status: int, why: str, headers: dict[str, str] | None = None) -> PlainTextResponse:
    return PlainTextResponse(why, status, headers=headers)
