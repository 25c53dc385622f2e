"""The REST interface: the page's rules, for programs, and a description that is true."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.review.answer_types import answer_type
from tests.desk.filed import APPROVE, REJECT, file, question
from tests.serving.desk.door import Door


def test_a_review_is_listed_claimed_decided_and_taken_back(door: Door) -> None:
    reviews = [file(door.ledger, f"odd {n}") for n in range(5)]
    ann, lea = door.client("ann"), door.client("lea")
    assert ann.get("/api/v1/me").json() == {
        "name": "ann", "role": "reviewer", "groups": ["cards"], "csrf": None,
    }  # fmt: skip
    first = ann.get("/api/v1/reviews", params={"limit": 3, "order": "age"}).json()
    after = {"limit": 3, "order": "age", "after": first["next"]}
    second = ann.get("/api/v1/reviews", params=after).json()
    listed = [one["id"] for one in first["reviews"] + second["reviews"]]
    assert sorted(listed) == sorted(one.id for one in reviews)
    assert second["next"] is None
    at = f"/api/v1/reviews/{reviews[0].id}"
    claimed = ann.post(f"{at}/claim", json={"lease": 60}).json()
    assert (claimed["state"], claimed["assignee"]) == ("claimed", "ann")
    assert lea.post(f"{at}/claim").json()["assignee"] == "ann"
    assert [one["id"] for one in ann.get("/api/v1/reviews?mine=true").json()["reviews"]] == [
        claimed["id"]
    ]
    assert ann.post(f"{at}/release").json()["state"] == "open"
    done = ann.post(f"{at}/decision", json={"answer": APPROVE, "undo": 10}).json()
    assert (done["state"], done["decided_by"]) == ("decided", "ann")
    assert done["answer"] == APPROVE | {"reviewer": "ann"}
    late = lea.post(f"{at}/decision", json={"answer": REJECT})
    assert late.status_code == 409
    assert late.json()["decided_by"] == "ann"
    assert late.json()["problem"] == "decided"
    assert ann.post(f"{at}/undo").json()["state"] == "claimed"
    events = ann.get(f"{at}/events").json()
    assert events[0]["at"] == done["created"]  # in the same words
    told = [one["step"] for one in events]
    assert told == ["filed", "claimed", "returned", "decided", "undone"]
    assert ann.get("/api/v1/counts").json()["open"] == 4


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/reviews?state=nix", None, 422),
        ("GET", "/api/v1/reviews?limit=0", None, 422),
        ("GET", "/api/v1/reviews?limit=100000", None, 422),
        ("GET", "/api/v1/reviews?order=nix", None, 422),
        ("GET", "/api/v1/reviews?after=nix", None, 422),
        ("GET", "/api/v1/reviews?q=" + "x" * 300, None, 422),
        ("GET", "/api/v1/nowhere", None, 404),
        ("GET", "/api/v1/reviews/nix/events", None, 404),
        ("PUT", "/api/v1/reviews", {}, 405),
        ("POST", "/api/v1/reviews/{id}/claim", {"lease": -1}, 422),
        ("POST", "/api/v1/reviews/{id}/claim", {"lease": 1e9}, 422),
        ("POST", "/api/v1/reviews/{id}/release", None, 409),
        ("POST", "/api/v1/reviews/{id}/undo", None, 409),
        ("POST", "/api/v1/reviews/{id}/decision", {}, 422),
        ("POST", "/api/v1/reviews/{id}/decision", {"answer": {"type": "sudo"}}, 422),
        ("POST", "/api/v1/reviews/{id}/decision", {"answer": None}, 422),
        ("POST", "/api/v1/reviews/{id}/decision", {"answer": APPROVE, "by": "lea"}, 422),
        ("POST", "/api/v1/reviews/{id}/decision", {"answer": APPROVE, "undo": 1e9}, 422),
    ],
)
def test_what_makes_no_sense_is_refused_in_json_and_changes_nothing(
    door: Door, method: str, path: str, body: Any, status: int
) -> None:
    review = file(door.ledger)
    answer = door.client("ann").request(method, path.format(id=review.id), json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["message"]
    assert len(answer.text) < 2000
    assert door.ledger.review(review.id).state == "open"


REFUND: Any = {
    "action_requests": [{"name": "refund", "args": {"amount": 5}, "description": "pay it back"}],
    "review_configs": [{
        "action_name": "refund",
        "allowed_decisions": ["approve", "edit"],
        "args_schema": {
            "type": "object",
            "properties": {"amount": {"type": "number", "maximum": 10}, "why": {}},
            "required": ["amount"],
            "additionalProperties": False,
        },
    }],
}  # fmt: skip


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    "args",
    ['{"amount": 1000}', '{"amount": "x"}', '{"nix": 1}', '{"amount": NaN}', '{"amount": -1e999}',
     '{"amount": 1, "why": 1e999}',
     '{"amount": 1, "why": %s}' % ("[" * 300 + "]" * 300)],
)  # fmt: skip
def test_edited_arguments_are_refused_as_on_the_page(door: Door, args: str, ours: bool) -> None:
    schema = TypeAdapter(answer_type("decisions", REFUND)).json_schema() if ours else None
    asked = question(request=REFUND, schema=schema, tool="refund", prediction=None)
    door.ledger.reconcile([asked])
    ann, at = door.client("ann"), f"/api/v1/reviews/{asked.id}/decision"
    new, old = (
        '{"type": "edit", "edited_action": {"name": "refund", "args": ARGS}}',
        '[{"type": "edit", "args": {"action": "refund", "args": ARGS}}]',
    )
    for form in (new, old, f'{{"decisions": [{new}]}}'):
        body = f'{{"answer": {form.replace("ARGS", args)}}}'
        answer = ann.post(at, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text
        assert door.ledger.review(asked.id).state == "open"
    fine = json.loads(new.replace("ARGS", '{"amount": 7.5}'))
    assert ann.post(at, json={"answer": fine}).json()["state"] == "decided"


def test_what_is_not_there_or_no_json_is_named(door: Door) -> None:
    ann, review = door.client("ann"), file(door.ledger)
    for method, path in (("GET", "/api/v1/nowhere"), ("PUT", "/api/v1/reviews")):
        message = ann.request(method, path).json()["message"]
        assert f"{method} '{path}'" in message
        assert "/api/v1/openapi.json" in message
    answer = ann.post(f"/api/v1/reviews/{review.id}/decision", content="nope",
                      headers={"Content-Type": "application/json"})  # fmt: skip
    assert (answer.status_code, answer.json()["message"]) == (422, "the body is no JSON")


def test_an_answer_names_nobody_else(door: Door) -> None:
    review = file(door.ledger)
    answer = {"answer": APPROVE | {"reviewer": "lea"}}
    done = door.client("ann").post(f"/api/v1/reviews/{review.id}/decision", json=answer).json()
    assert (done["decided_by"], done["answer"]["reviewer"]) == ("ann", "ann")


@pytest.fixture
def away(door: Door, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the database is away: the switch."""
    switch, store = [False], door.ledger.store
    read, write = store.read, store.write

    def perhaps(work: Any) -> Any:
        def asked(job: Any) -> Any:
            if switch[0]:
                raise LedgerError("the ledger /secret/place does not answer: disk I/O error")
            return work(job)

        return asked

    monkeypatch.setattr(store, "read", perhaps(read))
    monkeypatch.setattr(store, "write", perhaps(write))
    return switch


def test_a_ledger_that_is_away_is_waited_for_and_the_log_says_why(
    door: Door, away: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    review = file(door.ledger)
    ann, program = door.browser("ann"), door.client("ann")
    token = ann.csrf()
    away[0] = True
    page = ann.get("/")
    assert page.status_code == 503
    assert '<meta http-equiv="refresh" content="5">' in page.text
    sent = {"csrf": token, "decision": "approve"}
    path = f"/reviews/{review.id}/decision"
    assert ann.client.post(path, data=sent).status_code == 503
    for answer in (
        program.get("/api/v1/me"),
        program.post(f"/api/v1{path}", json={"answer": APPROVE}),
    ):
        assert answer.status_code == 503
        assert answer.json()["problem"] == "ledger"
        assert answer.headers["retry-after"] == "5"
    for answer in (page, program.get("/api/v1/me")):
        assert "/secret/place" not in answer.text
    assert "the ledger /secret/place does not answer: disk I/O error" in caplog.text
    away[0] = False
    assert ann.get("/").status_code == 200
    assert ann.client.post(path, data=sent).status_code == 303


def test_what_is_described_is_what_is_answered(door: Door) -> None:
    described = door.stranger().get("/api/v1/openapi.json").json()
    review = file(door.ledger)
    ann, aud = door.client("ann"), door.client("aud")
    at = f"/api/v1/reviews/{review.id}"
    asked: list[tuple[Any, str, str, Any]] = [
        (ann, "GET", "/api/v1/me", None),
        (ann, "GET", "/api/v1/reviews", None),
        (ann, "GET", "/api/v1/counts", None),
        (ann, "GET", at, None),
        (ann, "GET", f"{at}/events", None),
        (ann, "GET", "/api/v1/reviews/nix", None),
        (ann, "GET", "/api/v1/reviews?limit=0", None),
        (door.stranger(), "GET", at, None),
        (door.stranger(), "POST", "/api/v1/session", {"name": "ann", "token": "x"}),
        (door.stranger(), "POST", "/api/v1/session", {"name": "ann", "token": door.tokens["ann"]}),
        (aud, "POST", f"{at}/claim", None),
        (ann, "POST", f"{at}/claim", None),
        (ann, "POST", f"{at}/release", None),
        (ann, "POST", f"{at}/decision", {"answer": {"type": "sudo"}}),
        (ann, "POST", f"{at}/decision", {"answer": APPROVE}),
        (ann, "POST", f"{at}/decision", {"answer": REJECT}),
    ]
    seen = set()
    for who, method, path, body in asked:
        answer = who.request(method, path, json=body)
        pattern = path.partition("?")[0].replace(review.id, "{name}").replace("nix", "{name}")
        operation = described["paths"][pattern][method.lower()]
        told = operation["responses"][str(answer.status_code)]["content"]["application/json"]
        schema = {**told["schema"], "components": described["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())
        seen.add((pattern, method))
        secured = pattern != "/api/v1/session" or method != "POST"
        assert ("security" in operation) == secured
    every = {(path, m.upper()) for path, methods in described["paths"].items() for m in methods}
    assert every - seen == {("/api/v1/session", "DELETE"), ("/api/v1/reviews/{name}/undo", "POST")}
    assert all(path.startswith("/api/v1/") for path, _ in every), "pages are not described"
