"""A desk that is served within the test, and people who come to it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any, NamedTuple

from anyio.from_thread import BlockingPortal
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.serving.desk import acting, counting, reading, rest
from bayeslora_tool.serving.desk.app import desk_app
from tests.desk.filed import file, meddle

PEOPLE: Any = {
    "ann": ("reviewer", ["cards"]),
    "bob": ("reviewer", ["loans"]),
    "cid": ("reviewer", []),
    "lea": ("lead", []),
    "aud": ("auditor", []),
}


class Staff(NamedTuple):
    """The people of a ledger."""

    tokens: dict[str, str]
    portal: BlockingPortal
    """Into the event loop that serves them."""


class Door:
    """A desk, and its people with their tokens."""

    def __init__(self, ledger: Ledger, staff: Staff, **options: Any) -> None:
        self.ledger = ledger
        self.tokens, self.portal = staff
        self.app = desk_app(ledger, **options)

    def stranger(self, address: str = "127.0.0.1", **options: Any) -> TestClient:
        """Somebody's browser, before they sign in."""
        base = options.pop("base_url", "http://localhost")
        found = TestClient(
            self.app, base, client=(address, 50_000), follow_redirects=False, **options
        )
        found.portal = self.portal  # one event loop for all: quicker than one a request
        return found

    def browser(self, name: str) -> Browser:
        """The browser of somebody who has signed in by the page."""
        found = Browser(self.stranger())
        answer = found.sign_in(name, self.tokens[name])
        assert answer.status_code == 303, answer.text
        return found

    def client(self, name: str) -> TestClient:
        """A program of somebody's, with their bearer token."""
        found = self.stranger()
        who = {"name": name, "token": self.tokens[name]}
        secret = found.post("/api/v1/session", json=who).json()["secret"]
        found.headers["Authorization"] = f"Bearer {secret}"
        return found

    def routes(self, method: str) -> list[str]:
        """Paths that take a method, of a review that is there; those for signing in aside."""
        review = file(self.ledger, "odd one")
        found = []
        for room in (reading, acting, counting, rest):
            for route in room.router.routes:
                assert isinstance(route, APIRoute)
                name = "ann" if route.path.startswith("/people") else review.id
                if method in route.methods and route.path != "/sign-in":
                    found.append(route.path.replace("{name}", name))
        return found


class Browser:
    """Sends forms as they stand on pages."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(path, **options)

    def post(self, path: str, sent: dict[str, str] | None = None, **options: Any) -> Any:
        """Send a form with the token that a page has for it."""
        return self.client.post(path, data={"csrf": self.csrf()} | (sent or {}), **options)

    def csrf(self, path: str = "/") -> str:
        return csrf(self.get(path).text)

    def sign_in(self, name: str, token: str, **sent: str) -> Any:
        known = csrf(self.get("/sign-in").text)
        form = {"csrf": known, "name": name, "token": token} | sent
        return self.client.post("/sign-in", data=form)


def csrf(text: str) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', text)
    return found[1] if found else ""


def assign(ledger: Ledger, review: str, **columns: Any) -> None:
    """Put values into the row of a review, which then does not verify."""
    for column, value in columns.items():
        meddle(ledger, f'UPDATE reviews SET "{column}" = :v WHERE id = :id', v=value, id=review)


class Page(HTMLParser):
    """What a browser makes of a page: its elements, and the text that it shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and all(attrs.get(key) == value for key, value in wanted.items())
        ]
