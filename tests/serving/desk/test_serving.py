"""The command, and TLS as browsers meet it."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.serving.desk.binding import Binding
from bayeslora_tool.serving.desk.running import DeskServer
from tests.conftest import failed
from tests.server_process import LOOPBACK, free_port
from tests.serving.desk.door import Door, Staff, csrf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0", "--name", "desk.example"], "--tls-cert and --tls-key"),
        (["--host", "10.0.0.1"], "--proxy-header and --proxy"),
        (["--host", "desk.example"], "must be an IP address"),
        (["--proxy", "10.0.0.9"], "--proxy-header and --proxy go together"),
        (["--proxy-header", "X-User"], "--proxy-header and --proxy go together"),
        (["--tls-cert", "missing.pem"], "go together"),
        (["--tls-cert", "missing.pem", "--tls-key", "missing.pem"], "there is no file"),
        (["--preset", "missing.yaml"], "missing.yaml"),
    ],
)
def test_what_it_will_not_serve_it_says_and_what_to_do(
    run: Any, ledger: Ledger, tmp_path: Path, options: list[str], message: str
) -> None:
    place = str(tmp_path / "desk.sqlite")
    assert failed(run("desk", "serve", "--ledger", place, *options), message)


def test_a_ledger_that_is_not_there_is_not_made(run: Any, tmp_path: Path) -> None:
    assert failed(run("desk", "serve", "-l", str(tmp_path / "none.sqlite")), "there is no ledger")
    assert list(tmp_path.iterdir()) == []


def certificate(folder: Path) -> dict[str, Path]:
    """A certificate for loopback that vouches for itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "desk")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    files = {"cert": folder / "cert.pem", "key": folder / "key.pem"}
    files["cert"].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files["key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@LOOPBACK
def test_over_tls_one_signs_in_with_a_cookie_for_tls_alone(
    ledger: Ledger, staff: Staff, tmp_path: Path
) -> None:
    files = certificate(tmp_path)
    binding = Binding(port=free_port(), **files)  # type: ignore[arg-type]
    door, listens = Door(ledger, staff, binding=binding), threading.Event()
    told: list[str] = []
    with socket.socket() as own:
        own.bind(("127.0.0.1", binding.port))
        server = DeskServer(door.app, binding, lambda url: (told.append(url), listens.set()))
        thread = threading.Thread(target=lambda: server.run(sockets=[own]))
        thread.start()
        try:
            assert listens.wait(10)
            known = ssl.create_default_context(cafile=str(files["cert"]))
            with httpx.Client(base_url=told[0], verify=known, trust_env=False) as ann:
                form = {"name": "ann", "token": door.tokens["ann"]}
                form["csrf"] = csrf(ann.get("/sign-in").text)
                cookie = ann.post("/sign-in", data=form).headers["set-cookie"]
                assert cookie.startswith("__Host-bayeslora-desk=")
                assert "Secure" in cookie
                assert ann.get("/").status_code == 200
            assert told[0].startswith("https://")
            with pytest.raises(httpx.TransportError):
                httpx.get(told[0].replace("https", "http"), trust_env=False)
        finally:
            server.should_exit = True
            thread.join(20)
