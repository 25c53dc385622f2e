"""The same desk on Postgres, which refuses texts that SQLite takes."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from anyio.from_thread import start_blocking_portal

from bayeslora_tool.desk.ledger import Ledger
from tests.desk.filed import APPROVE, CHEAP, file
from tests.desk.postgres import Postgres, unavailable
from tests.serving.desk.door import PEOPLE, Door, Staff

pytestmark = pytest.mark.slow


@pytest.fixture
def door() -> Iterator[Door]:
    if reason := unavailable():
        pytest.skip(reason)
    server = Postgres()
    try:
        with Ledger(server.database()) as ledger, start_blocking_portal() as portal:
            ledger.people.hasher = CHEAP
            tokens = {name: ledger.people.add(name, *who) for name, who in PEOPLE.items()}
            yield Door(ledger, Staff(tokens, portal))
    finally:
        server.close()


def test_a_day_at_the_desk(door: Door) -> None:
    reviews = [file(door.ledger, f"odd {n} \u202e\0\ud800".strip("\ud800\0")) for n in range(3)]
    ann, program = door.browser("ann"), door.client("lea")
    assert ann.get("/").status_code == 200
    at = f"/reviews/{reviews[0].id}"
    assert ann.get(at).status_code == 200
    assert ann.post(f"{at}/claim").status_code == 303
    sent = {"decision": "reject", "message": "no \0 \u202e"}
    assert ann.post(f"{at}/decision", sent).status_code == 303
    assert ann.post(f"{at}/undo").status_code == 303
    other = f"/api/v1/reviews/{reviews[1].id}"
    assert program.post(f"{other}/decision", json={"answer": APPROVE}).status_code == 200
    assert len(program.get("/api/v1/reviews?order=doubt").json()["reviews"]) == 2
    assert ann.get("/history").status_code == 200
    assert ann.get("/people/ann").status_code == 200


@pytest.mark.parametrize("word", ["\0", "\ud800", "odd\0", "\u202e"])
def test_words_that_no_database_holds_find_nothing_and_break_nothing(door: Door, word: str) -> None:
    file(door.ledger)
    lea, program = door.browser("lea"), door.client("lea")
    word = word.encode("utf-8", "surrogatepass").decode("latin-1")
    for name in ("q", "tool", "label", "group", "by", "after", "decided", "state", "back"):
        for path in ("/", "/history"):
            answer = lea.get(path, params={name: word})
            assert answer.status_code in (200, 404, 422), (path, name)
    part = quote(word, safe="")
    for path in (f"/reviews/{part}", f"/people/{part}", f"/reviews/{part}/whole"):
        assert lea.get(path).status_code in (404, 422), path
    for who in ({"name": word, "token": word}, {"name": "ann", "token": word}):
        assert program.post("/api/v1/session", json=who).status_code == 401
    sent = {"csrf": lea.csrf(), "decision": word}
    assert lea.post(f"/reviews/{part}/claim", sent).status_code == 404
