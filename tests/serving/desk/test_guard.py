"""Host header games, other sites' pages, bodies out of bounds: refused before anything is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.serving.desk import guard as module
from bayeslora_tool.serving.desk.binding import Binding, Proxy
from tests.desk.filed import file
from tests.serving.desk.door import Door, Staff

LONG = 1 << 20


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8300", "127.0.0.1:1", "[::1]:8300", "LocalHost", "desk.example"],
)
def test_a_request_for_one_of_its_names_comes_in(ledger: Ledger, staff: Staff, host: str) -> None:
    door = Door(ledger, staff, binding=Binding(names=["desk.example"]))
    assert door.stranger().get("/sign-in", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8300",
        "localhost.evil.example",
        "localhost@evil.example",
        "127.0.0.1.nip.io",
        "[::1].evil.example",
        "[evil.example]",
        "localhost,evil.example",
        "",
        "0.0.0.0",
    ],
)
def test_a_request_for_another_host_is_refused(door: Door, host: str) -> None:
    for path in ("/sign-in", "/api/v1/me", "/static/desk.css", "/nowhere"):
        answer = door.stranger().get(path, headers={"Host": host})
        assert answer.status_code == 421, path
        assert "evil" not in answer.text


def test_two_hosts_are_none(door: Door) -> None:
    headers = [("Host", "localhost"), ("Host", "localhost")]
    assert door.stranger().get("/sign-in", headers=headers).status_code == 421


def test_another_name_in_a_forwarded_host_changes_nothing(door: Door) -> None:
    answer = door.stranger().get("/", headers={"X-Forwarded-Host": "evil.example"})
    assert answer.headers["location"] == "/sign-in"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:9"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_form_on_another_sites_page_is_refused_whatever_it_carries(
    door: Door, headers: dict[str, str]
) -> None:
    review = file(door.ledger)
    ann, program = door.browser("ann"), door.client("ann")
    assert ann.post(f"/reviews/{review.id}/claim", headers=headers).status_code == 403
    assert program.post(f"/api/v1/reviews/{review.id}/claim", headers=headers).status_code == 403
    assert ann.client.post("/sign-in", data={}, headers=headers).status_code == 403
    assert door.ledger.review(review.id).state == "open"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},  # a form where no referrer is sent
        {"Sec-Fetch-Site": "none"},
        {},
    ],
)
def test_a_form_of_its_own_comes_in(door: Door, headers: dict[str, str]) -> None:
    review = file(door.ledger)
    answer = door.browser("ann").post(f"/reviews/{review.id}/claim", headers=headers)
    assert answer.status_code == 303


def test_a_proxy_may_come_by_another_host_than_its_pages(ledger: Ledger, staff: Staff) -> None:
    proxy = Proxy("X-User", "10.0.0.9")
    door = Door(ledger, staff, binding=Binding(names=["desk.example"], proxy=proxy))
    ann = door.stranger("10.0.0.9", headers={"X-User": "ann"})
    token = ann.get("/api/v1/me").json()["csrf"]
    for origin, status in (("https://desk.example", 404), ("https://evil.example", 403)):
        headers = {"Origin": origin, "X-CSRF-Token": token}
        assert ann.post("/api/v1/reviews/nix/claim", headers=headers).status_code == status


def chunks(total: int) -> Iterator[bytes]:
    for _ in range(total // 1000):
        yield b"x" * 1000


@pytest.mark.parametrize("body", [b"x" * (LONG + 1), "chunks"])
def test_a_body_that_is_too_large_is_refused(door: Door, body: Any) -> None:
    ann = door.client("ann")
    for path in ("/api/v1/session", "/reviews/x/decision", "/sign-in"):
        sent = chunks(LONG + 2000) if body == "chunks" else body
        answer = ann.post(path, content=sent)
        assert answer.status_code == 413, path
        assert "at most" in answer.text


def test_a_body_that_does_not_come_is_not_waited_for(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setattr(module, "READ_SECONDS", 0.05)
    said: list[Any] = []

    async def never() -> Any:
        await asyncio.sleep(60)

    async def note(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/sign-in", "raw_path": b"/sign-in",
        "headers": [(b"host", b"localhost")], "query_string": b"", "client": ("127.0.0.1", 1),
        "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("localhost", 80),
    }  # fmt: skip
    asyncio.run(door.app(scope, never, note))
    assert said[0]["status"] == 408


def test_a_form_is_sent_as_a_form(door: Door) -> None:
    ann = door.browser("ann")
    for options in ({"json": {}}, {"files": {"csrf": b"x"}}, {"content": b"csrf=x"}):
        answer = ann.client.post("/sign-out", **options)  # type: ignore[arg-type]
        assert answer.status_code == 415


def test_every_answer_tells_browsers_to_run_and_keep_nothing(door: Door) -> None:
    ann = door.browser("ann")
    paths = ["/", "/sign-in", "/nowhere", "/history", "/api/v1/me", "/api/v1/openapi.json"]
    for path in [*paths, "/static/desk.js", "/reviews/nix"]:
        headers = ann.get(path).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert not any("unsafe" in value or "*" in value for value in policy.values())
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == ("no-cache" if "static" in path else "no-store")


def test_an_error_within_is_not_shown(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the secret text of a customer")

    ann = door.browser("ann")
    door.ledger.inbox = fails  # type: ignore[method-assign]
    answer = ann.get("/")
    assert (answer.status_code, "secret" in answer.text) == (500, False)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "RuntimeError" in caplog.text
