"""What is open to others is encrypted or behind a proxy, or not served at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.serving.desk.binding import Binding, Proxy


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    for name in ("cert", "key"):
        (tmp_path / name).touch()
    return {"cert": tmp_path / "cert", "key": tmp_path / "key"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert not Binding(host=host).secure


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "2001:db8::1"])
def test_what_others_can_reach_needs_tls_or_a_proxy(host: str, files: dict[str, Path]) -> None:
    names = {"names": ["desk.example"]}
    with pytest.raises(ValueError, match="--tls-cert and --tls-key, or put a reverse proxy"):
        Binding(host=host, **names)  # type: ignore[arg-type]
    assert Binding(host=host, **names, **files).secure  # type: ignore[arg-type]
    assert Binding(host=host, **names, proxy=Proxy("X-User", "10.0.0.9")).proxy  # type: ignore[arg-type]


def test_every_address_needs_a_name(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="--name desk"):
        Binding(host="0.0.0.0", **files)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "desk.example"}, "must be an IP address"),
        ({"host": ""}, "must be an IP address"),
        ({"names": ["Desk.Example:80"]}, "must be a host like"),
        ({"names": ["*"]}, "must be a host like"),
    ],
)
def test_what_will_not_do_is_named(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Binding(**options)


def test_tls_needs_both_files(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        Binding(cert=files["cert"])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Binding(cert=files["cert"], key=tmp_path / "missing")


@pytest.mark.parametrize("address", ["proxy.example", "", "10.0.0.0/8"])
def test_a_proxy_has_an_address(address: str) -> None:
    with pytest.raises(ValueError, match="must be an IP address"):
        Proxy("X-User", address)


def test_a_proxys_header_is_one() -> None:
    with pytest.raises(ValueError, match="must be the name of a header"):
        Proxy("X User:", "10.0.0.9")


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "http://127.0.0.1:8300/"),
        ({"host": "::1", "port": 9}, "http://[::1]:9/"),
        ({"names": ["desk.example"]}, "http://desk.example:8300/"),
    ],
)
def test_its_address_can_be_opened(options: Any, url: str) -> None:
    assert Binding(**options).url == url
