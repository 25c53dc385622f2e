"""Where the desk listens, and by which names: what is open to others is encrypted, or refused."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_HEADER = re.compile(r"[A-Za-z0-9-]+")


@dataclass(frozen=True)
class Proxy:
    """A reverse proxy that knows who comes.

    Attributes:
        header: That it sets to the reviewer's name, and takes away where a client sent it.
        address: Of the proxy, as IP address; what comes from elsewhere is refused.
    """

    header: str
    address: str

    def __post_init__(self) -> None:
        if not _HEADER.fullmatch(self.header):
            raise ValueError(
                f"`header` (={self.header!r:.60}) must be the name of a header, like "
                f"X-Forwarded-User"
            )
        object.__setattr__(self, "address", str(_ip("address", self.address)))


@dataclass(frozen=True)
class Binding:
    """An address to listen on.

    Attributes:
        host: IP address, or ``localhost``.
        port: From 1 to 65535.
        names: Hosts that requests may name besides loopback and ``host``.
        cert: File with the certificate for TLS, and those that vouch for it.
        key: File with its key.
        proxy: Behind which it stands.

    Raises:
        ValueError: It would be open to others without TLS and without a proxy.
        FileNotFoundError: No such certificate or key.
    """

    host: str = "127.0.0.1"
    port: int = 8300
    names: Collection[str] = ()
    cert: Path | None = None
    key: Path | None = None
    proxy: Proxy | None = None

    def __post_init__(self) -> None:
        address = _ip("host", "127.0.0.1" if self.host == "localhost" else self.host)
        for name in self.names:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"`names`: {name!r:.60} must be a host like desk.example.com, in small "
                    f"letters and without a port"
                )
        if (self.cert is None) != (self.key is None):
            raise ValueError("`cert` and `key` go together: TLS needs both files")
        for file in (self.cert, self.key):
            if file is not None and not file.is_file():
                raise FileNotFoundError(f"there is no file {str(file)!r}")
        if not address.is_loopback and self.cert is None and self.proxy is None:
            raise ValueError(
                f"`host` (={self.host!r}) can be reached by others, who would read names, tokens "
                f"and texts on the way: give --tls-cert and --tls-key, or put a reverse proxy that "
                f"signs people in before it and give --proxy-header and --proxy; or stay on "
                f"127.0.0.1"
            )
        if address.is_unspecified and not self.names:
            raise ValueError(
                f"`host` (={self.host!r}) is every address of this machine, so say by which name "
                f"people come: --name desk.example.com"
            )

    @property
    def hosts(self) -> frozenset[str]:
        """What a request may name as its host."""
        return LOOPBACK | {self.host, *self.names}

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS itself."""
        return self.cert is not None

    @property
    def url(self) -> str:
        """What people open."""
        name = next(iter(self.names), self.host)
        name = f"[{name}]" if ":" in name else name
        return f"{'https' if self.secure else 'http'}://{name}:{self.port}/"


def _ip(what: str, text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(
            f"`{what}` (={text!r:.60}) must be an IP address, like 127.0.0.1"
        ) from None
