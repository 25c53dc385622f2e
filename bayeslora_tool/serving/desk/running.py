"""Serves the desk until it is told to stop, also while browsers listen for news."""

from __future__ import annotations

import socket
from collections.abc import Callable

try:
    import uvicorn
    from fastapi import FastAPI

    from bayeslora_tool.serving.desk.binding import Binding
    from bayeslora_tool.serving.door import MAX_CONNECTIONS, READ_SECONDS, Impatient
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[desk]"') from None

Ready = Callable[[str], object]


def serve_desk(app: FastAPI, binding: Binding, *, ready: Ready = lambda url: None) -> None:
    """Serve until interrupted.

    Args:
        app: From :func:`desk_app`, of the same binding.
        binding: Where to listen.
        ready: Called with the address to open, once it listens.

    Raises:
        OSError: The address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in binding.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((binding.host, binding.port))
        except OSError as error:
            where = f"{binding.host}:{binding.port}"
            raise OSError(f"cannot listen on {where}: {error.strerror}; see --port") from None
        DeskServer(app, binding, ready).run(sockets=[listening])


class DeskServer(uvicorn.Server):
    """Ends the streams first: they would keep it from ending."""

    def __init__(self, app: FastAPI, binding: Binding, ready: Ready) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Impatient,
                ws="none",
                ssl_certfile=binding.cert,
                ssl_keyfile=binding.key,
                # Who comes is told by the connection: a header could say anything.
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=int(READ_SECONDS),
                access_log=False,
                log_config=None,
                server_header=False,
            )
        )
        self._heads = app.state.heads
        self._ready, self._url = ready, binding.url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As the base class, and says so."""
        await super().startup(sockets)
        self._ready(self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As the base class, without those who listen."""
        self._heads.close()
        await super().shutdown(sockets)
