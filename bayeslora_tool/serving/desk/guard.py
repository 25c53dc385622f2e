"""Before the desk: requests for other hosts, from elsewhere, or too large do not come in.

And each answer tells browsers what they may do with it: run nothing but the desk's own files, show
it in no frame, keep nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bayeslora_tool.serving.desk.binding import Proxy
from bayeslora_tool.serving.door import MAX_BYTES, READ_SECONDS, read_body

logger = logging.getLogger(__name__)

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]*)?")
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)
_ALWAYS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Lets in what is meant for the desk, whole and in bounds.

    Args:
        app: The desk.
        hosts: That requests may name.
        proxy: From which alone they come, if there is one.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], proxy: Proxy | None) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def marked(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers[name] = value
                kept = scope["path"].startswith("/static/")
                headers["Cache-Control"] = "no-cache" if kept else "no-store"
            await send(message)

        refused = self._refused(scope)
        if refused is None and scope["method"] not in ("GET", "HEAD"):
            try:
                async with asyncio.timeout(READ_SECONDS):
                    body = await read_body(receive)
            except TimeoutError:
                refused = 408, f"the body did not come within {READ_SECONDS:g} s"
            else:
                if body is None:
                    return
                if len(body) > MAX_BYTES:
                    refused = 413, f"a body has at most {MAX_BYTES} bytes"
                receive = _again(body, receive)
        if refused is not None:
            await _answer(scope, *refused)(scope, receive, marked)
            return
        try:
            await self.app(scope, receive, marked)
        except Exception:
            logger.exception("a request could not be answered")
            if not begun:
                answer = _answer(scope, 500, "that did not work; the desk's log says why")
                await answer(scope, receive, marked)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        named = [value for name, value in scope["headers"] if name == b"host"]
        host = named[0].decode("latin-1").lower() if len(named) == 1 else ""
        if _without_port(host) not in self.hosts:
            known = ", ".join(sorted(self.hosts))
            return 421, f"this desk is {known}; if it has another name, tell it: serve --name NAME"
        if self.proxy is not None and _address(scope) != self.proxy.address:
            return 403, "this desk is reached through its proxy only"
        if scope["method"] not in ("GET", "HEAD") and self._from_elsewhere(scope, host):
            return 403, "this came from another site's page"
        return None

    def _from_elsewhere(self, scope: Scope, host: str) -> bool:
        """Whether a page of another origin has sent it, in the browser's own word."""
        headers = Headers(scope=scope)
        site, origin = headers.get("sec-fetch-site"), headers.get("origin", "null").lower()
        if site not in (None, "same-origin", "none"):
            return True
        # Browsers say `null` with a form of their own where they are asked to send no referrer.
        there = origin.partition("://")[2]
        # A proxy may come by another name than its pages have.
        by_proxy = self.proxy is not None and _without_port(there) in self.hosts
        return not (origin == "null" or there == host or by_proxy)


def _address(scope: Scope) -> str:
    """Where a request comes from; of IPv4 as such, also where it came by a socket for both."""
    text = (scope.get("client") or ("",))[0]
    try:
        found = ip_address(text)
    except ValueError:  # no network address
        return ""
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


def _without_port(host: str) -> str:
    """The name in a host; empty where it is none."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]) if found else ""


def _again(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _answer(scope: Scope, status: int, why: str) -> Response:
    if scope["path"].startswith("/api/"):
        return JSONResponse({"message": why}, status)
    return PlainTextResponse(why + "\n", status)
