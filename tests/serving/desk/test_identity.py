"""Who is let in, and what a form must carry: everybody else is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.routing import Route
from bayeslora_tool.serving.desk.binding import Binding, Proxy
from tests.desk.filed import APPROVE, file
from tests.serving.desk.door import PEOPLE, Browser, Door, Staff, csrf

PROXY = Binding(names=["desk.example.com"], proxy=Proxy("X-Forwarded-User", "10.0.0.9"))


def test_there_are_routes_to_refuse(door: Door) -> None:
    assert {"/", "/history", "/events", "/api/v1/me"} <= set(door.routes("GET"))
    assert {"/sign-out", "/api/v1/session"} <= set(door.routes("POST"))


def test_nobody_sees_or_changes_anything_before_signing_in(door: Door) -> None:
    for path in door.routes("GET"):
        answer = door.stranger().get(path)
        if path.startswith("/api"):
            assert (answer.status_code, set(answer.json())) == (401, {"message"}), path
            assert answer.headers["www-authenticate"] == "Bearer"
        elif path == "/events":
            assert answer.status_code == 401
        else:
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/sign-in")
        assert "odd one" not in answer.text
    for path in door.routes("POST"):
        options: Any = {"json": {}} if path.startswith("/api") else {"data": {}}
        expected = 422 if path == "/api/v1/session" else 401
        assert door.stranger().post(path, **options).status_code == expected, path
    assert {one.state for one in door.ledger.reviews()} == {"open"}


def test_signing_in_sets_a_cookie_that_scripts_and_other_sites_do_not_get(door: Door) -> None:
    browser = Browser(door.stranger())
    answer = browser.sign_in("ann", door.tokens["ann"])
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    assert "secure" not in cookie  # by plain HTTP, on loopback
    assert "ann" in browser.get("/").text


def test_under_tls_the_cookie_is_for_this_host_and_for_tls_alone(
    ledger: Ledger, staff: Staff, tmp_path: Any
) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    binding = Binding(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    door = Door(ledger, staff, binding=binding)
    browser = Browser(door.stranger(base_url="https://localhost"))
    cookie = browser.sign_in("ann", door.tokens["ann"]).headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert "Secure" in cookie
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize(("name", "token"), [("ann", "wrong"), ("nobody", "wrong"), ("", "")])
def test_a_wrong_token_signs_nobody_in(door: Door, name: str, token: str) -> None:
    browser = Browser(door.stranger())
    answer = browser.sign_in(name, token)
    assert answer.status_code == 401
    assert "there is nobody of that name with that token" in answer.text
    assert browser.get("/").status_code == 303
    assert (
        door.stranger().post("/api/v1/session", json={"name": name, "token": token}).status_code
        == 401
    )


def test_a_form_for_signing_in_must_be_this_browsers(door: Door) -> None:
    form = {"name": "ann", "token": door.tokens["ann"]}
    assert door.stranger().post("/sign-in", data=form).status_code == 403
    others = csrf(door.stranger().get("/sign-in").text)
    mine = door.stranger()
    mine.get("/sign-in")
    assert mine.post("/sign-in", data=form | {"csrf": others}).status_code == 403
    assert mine.get("/").status_code == 303


def test_no_change_without_the_token_of_ones_own_page(door: Door) -> None:
    ann, lea = door.browser("ann"), door.browser("lea")
    paths = [path for path in door.routes("POST") if not path.startswith("/api")]
    assert len(paths) >= 5
    for path in paths:
        for token in (None, "", "0" * 64, lea.csrf(), ann.csrf()[:-1]):
            sent = {"decision": "approve"} | ({} if token is None else {"csrf": token})
            answer = ann.client.post(path, data=sent)
            assert answer.status_code == 403, (path, token)
            assert "load the page again" in answer.text
    assert {one.state for one in door.ledger.reviews()} == {"open"}
    assert ann.get("/").status_code == 200, "nor is anybody signed out"


def test_a_cookie_is_worth_nothing_after_signing_out(door: Door) -> None:
    ann = door.browser("ann")
    kept, token = dict(ann.client.cookies), ann.csrf()
    assert ann.post("/sign-out").status_code == 303
    thief = door.stranger(cookies=kept)
    assert thief.get("/").status_code == 303
    review = file(door.ledger)
    answer = thief.post(f"/reviews/{review.id}/claim", data={"csrf": token})
    assert answer.status_code == 401
    assert door.ledger.review(review.id).state == "open"


def test_a_bearer_token_is_worth_nothing_after_signing_out(door: Door) -> None:
    ann = door.client("ann")
    assert ann.get("/api/v1/me").json()["name"] == "ann"
    assert ann.delete("/api/v1/session").status_code == 204
    assert ann.get("/api/v1/me").status_code == 401


def test_somebody_who_is_removed_is_out_at_once(door: Door) -> None:
    browser, program = door.browser("ann"), door.client("ann")
    door.ledger.people.remove("ann")
    assert browser.get("/").status_code == 303
    assert program.get("/api/v1/me").status_code == 401


def test_the_rest_interface_takes_no_cookie(door: Door) -> None:
    assert door.browser("ann").get("/api/v1/me").status_code == 401


@pytest.mark.parametrize(
    ("there", "leads"),
    [
        ("/reviews/3f2a?back=q%3Dx", "/reviews/3f2a?back=q%3Dx"),
        ("/history", "/history"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ],
)
def test_after_signing_in_one_is_on_a_page_of_the_desk(door: Door, there: str, leads: str) -> None:
    browser = Browser(door.stranger())
    assert browser.sign_in("ann", door.tokens["ann"], next=there).headers["location"] == leads


@pytest.mark.parametrize("name", PEOPLE)
def test_each_may_do_what_their_role_and_groups_allow(door: Door, name: str) -> None:
    role, groups = PEOPLE[name]
    review = file(door.ledger, "about a card", routes=[Route(group="cards")])
    browser, program = door.browser(name), door.client(name)
    reads = role != "reviewer" or "cards" in groups
    decides = reads and role != "auditor"
    assert ("about a card" in browser.get("/").text) == reads
    for path in ("", "/whole", "/status", "/similar"):
        answer = browser.get(f"/reviews/{review.id}{path}")
        assert answer.status_code == (200 if reads else 403), path
        assert reads or "about a card" not in answer.text
    for path in ("", "/events"):
        answer = program.get(f"/api/v1/reviews/{review.id}{path}")
        assert answer.status_code == (200 if reads else 403), path
    listed = program.get("/api/v1/reviews").json()["reviews"]
    assert [one["id"] for one in listed] == ([review.id] if reads else [])
    assert program.get("/api/v1/counts").json()["open"] == reads
    asked = program.get("/api/v1/reviews", params={"group": "cards"})
    assert asked.status_code == (200 if reads else 403)
    sent = {"decision": "approve"}
    if not decides:
        for what in ("claim", "release", "decision", "undo"):
            assert browser.post(f"/reviews/{review.id}/{what}", sent).status_code == 403, what
            body: Any = {"answer": APPROVE} if what == "decision" else None
            answer = program.post(f"/api/v1/reviews/{review.id}/{what}", json=body)
            assert answer.status_code == 403, what
        assert 'value="approve"' not in browser.get(f"/reviews/{review.id}").text
    else:
        assert browser.post(f"/reviews/{review.id}/decision", sent).status_code == 303
    assert door.ledger.review(review.id).decided_by == (name if decides else None)


# A reverse proxy


def test_the_proxy_names_who_comes(ledger: Ledger, staff: Staff) -> None:
    door = Door(ledger, staff, binding=PROXY)
    review = file(ledger)
    ann = Browser(
        door.stranger(
            "10.0.0.9", base_url="http://desk.example.com", headers={"x-forwarded-user": "ann"}
        )
    )
    assert "ann" in ann.get("/").text
    assert "Sign out" not in ann.get("/").text
    assert ann.get("/sign-in").status_code == 404
    path = f"/reviews/{review.id}/decision"
    assert ann.client.post(path, data={"decision": "approve"}).status_code == 403
    assert ann.post(path, {"decision": "approve"}).status_code == 303
    assert ledger.review(review.id).decided_by == "ann"
    assert ann.client.post("/api/v1/session", json={"name": "a", "token": "b"}).status_code == 404


def test_whom_the_proxy_does_not_name_by_one_known_name_is_refused(
    ledger: Ledger, staff: Staff
) -> None:
    door = Door(ledger, staff, binding=PROXY)
    come: list[tuple[Any, int]] = [
        ([], 401),
        ([("x-forwarded-user", "")], 401),
        ([("x-forwarded-user", "ann"), ("x-forwarded-user", "lea")], 401),
        ([("x-forwarded-user", "eve")], 403),
        ([("x-remote-user", "ann")], 401),
    ]
    for headers, status in come:
        for path in ("/", "/api/v1/me"):
            assert door.stranger("10.0.0.9").get(path, headers=headers).status_code == status
    # Nor does a token count there, which would go round the proxy.
    secret = ledger.people.sign_in("ann", door.tokens["ann"])
    bearer = {"Authorization": f"Bearer {secret}"}
    assert door.stranger("10.0.0.9").get("/api/v1/me", headers=bearer).status_code == 401


def test_a_proxy_may_name_people_with_any_letters(ledger: Ledger, staff: Staff) -> None:
    ledger.people.add("Zoë Łuk")
    door = Door(ledger, staff, binding=PROXY)
    named = {"X-Forwarded-User": "Zoë Łuk".encode()}
    answer = door.stranger("10.0.0.9").get("/api/v1/me", headers=named)  # type: ignore[arg-type]
    assert answer.json()["name"] == "Zoë Łuk"


def test_a_proxy_comes_by_a_socket_for_both_kinds_of_address(ledger: Ledger, staff: Staff) -> None:
    door = Door(ledger, staff, binding=PROXY)
    ann = door.stranger("::ffff:10.0.0.9", headers={"X-Forwarded-User": "ann"})
    assert ann.get("/api/v1/me").json()["name"] == "ann"


@pytest.mark.parametrize("address", ["10.0.0.8", "127.0.0.1", "::1", "::ffff:10.0.0.8", "unix"])
def test_the_proxys_header_from_elsewhere_is_refused(
    ledger: Ledger, staff: Staff, address: str
) -> None:
    door = Door(ledger, staff, binding=PROXY)
    named = {"X-Forwarded-User": "lea", "X-Forwarded-For": "10.0.0.9"}
    for path in ("/", "/sign-in", "/api/v1/me", "/static/desk.css"):
        answer = door.stranger(address).get(path, headers=named)
        assert (answer.status_code, "through its proxy only" in answer.text) == (403, True)


def test_without_a_proxy_its_header_says_nothing(door: Door) -> None:
    named = {"X-Forwarded-User": "lea"}
    assert door.stranger().get("/", headers=named).status_code == 303
    assert door.stranger().get("/api/v1/me", headers=named).status_code == 401
    assert "/people/lea" not in door.browser("ann").get("/", headers=named).text


def test_behind_a_proxy_programs_show_the_token_that_they_were_given(
    ledger: Ledger, staff: Staff
) -> None:
    door = Door(ledger, staff, binding=PROXY)
    review = file(ledger)
    ann = door.stranger("10.0.0.9", headers={"X-Forwarded-User": "ann"})
    path = f"/api/v1/reviews/{review.id}/claim"
    for headers in ({}, {"X-CSRF-Token": "0" * 64}):
        assert ann.post(path, headers=headers).status_code == 403
    token = ann.get("/api/v1/me").json()["csrf"]
    assert re.fullmatch(r"\w{64}", token)
    assert ann.post(path, headers={"X-CSRF-Token": token}).json()["assignee"] == "ann"
