"""Texts are data: nothing of a hostile ledger runs, leads anywhere, or hides on any page."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.routing import Route
from bayeslora_tool.review.answer_types import answer_type
from bayeslora_tool.review.requests import ask_about, hitl_request
from tests.desk.filed import file, question
from tests.serving.desk.door import Door, Page, assign

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "</textarea></pre><script src=//evil.example></script>",
    "{{ 7 * 7 }}{% raw %}${7*7}#{7*7}",
    "javascript:alert(1) http://evil.example [click](http://evil.example) <a href=//evil.example>x",
    "pay \u202e05\u202c \u2066to\u2069 \u200bada\u00ad \u200f",
    "\x1b[2J\x1b]8;;http://evil.example\x07link\x1b]8;;\x07 \x9b31m",
    "zero \x00 byte, lone \ud800 surrogate, \ufffe, \x7f\x85\u2028\u2029",
    "&lt;b&gt; &amp; &#x202e; \r\n\t",
    "data-key='a' hx-get='/x' style='position:fixed'",
]


def hostile(text: str) -> dict[str, Any]:
    """All of a question that a text may get into."""
    args = {"to": text, text: {"deep": [text]}}
    schema = {
        "properties": {"to": {"type": "string", "description": text}, "kind": {"enum": [text, "b"]}}
    }
    request = hitl_request(ask_about(text, args, [text]))
    answers = TypeAdapter(answer_type("decisions", request, schema)).json_schema()
    probabilities = {text: 0.6, "b" + text: 0.4}
    prediction = question("odd").prediction
    assert prediction is not None
    return {
        "text": text,
        "request": request,
        "schema": answers,
        "prediction": {**prediction, "label": text, "probabilities": probabilities},
        "reason": text,
    }


def filed(door: Door, text: str) -> list[FiledReview]:
    """Reviews whose every word is hostile: of a call, of a label, and settled ones."""
    named = {
        name: text.encode("utf-8", "replace").decode().replace("\0", "")
        for name in ("tool", "graph", "thread", "key", "policy")
    }
    about_label = question(
        text, **named, reason=text, interrupt="label", conversation=2 * [{"by": text, "text": text}]
    )
    about = {**named, "thread": "t", "interrupt": "call", **hostile(text)}
    calls = replace(question(), **about)
    settled = question(text + "!", **named, interrupt="settled")
    group = text[:100] if text.isprintable() and text.strip() == text else "g"
    door.ledger.reconcile([about_label, calls, settled], routes=[Route(group=group)])
    door.ledger.decide(settled.id, {"type": "reject", "message": text}, "lea")
    file(door.ledger, "quiet")
    return [door.ledger.review(one.id) for one in (about_label, calls, settled)]


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_page_lets_a_text_run_lead_or_hide(door: Door, text: str) -> None:
    reviews = filed(door, text)
    lea = door.browser("lea")
    plain = {
        page for page in door.routes("GET") if not page.startswith(("/api", "/events", "/reviews"))
    }
    paths = [*plain, "/people/lea", "/reviews/nix", "/sign-in"]
    for review in reviews:
        paths += [f"/reviews/{review.id}{part}" for part in ("", "/status", "/similar")]
    for path in paths:
        answer = lea.get(path)
        assert answer.headers["content-type"].startswith("text/html"), path
        assert answer.status_code in (200, 404), path
        harmless(answer.text)
    word = text.encode("utf-8", "replace").decode()
    for path, words in (
        ("/", ("q", "tool", "label")),
        ("/", ("group",)),
        ("/", ("state",)),
        ("/", ("after",)),
        ("/", ("decided",)),
        ("/history", ("q", "by", "tool")),
        ("/sign-in", ("next",)),
        (f"/reviews/{reviews[0].id}", ("back",)),
    ):
        answer = lea.get(path, params=dict.fromkeys(words, word))
        assert answer.status_code in (200, 404, 422), (path, words)
        harmless(answer.text)
    sent = {"decision": "edit", "message": word}
    harmless(lea.post(f"/reviews/{reviews[0].id}/decision", sent).text)


def harmless(text: str) -> None:
    """Assert that a page has the desk's own elements alone, and shows all characters."""
    for character in set(text):
        fine = (
            character.isprintable() or character == "\n" or unicodedata.category(character) == "Zs"
        )
        assert fine, f"{character!r} is invisible"
    page = Page(text)
    known = {"/static/vendor/htmx.min.js", "/static/desk.js"}
    assert {attrs.get("src") for attrs in page.all("script")} <= known
    assert {tag for tag, _ in page.elements} & {
        "iframe",
        "object",
        "embed",
        "base",
        "style",
    } == set()
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith(("on", "style")), (tag, attrs)
            if name in ("href", "src", "action", "hx-get", "formaction", "data-claim"):
                assert re.match(r"/(?!/)|#main$", value or ""), (tag, attrs)
    assert not re.search(
        r"evil\.example[^<]*</a>", re.sub(r'<a [^>]*class="to"[^>]*>[^<]*</a>', "", text)
    )


def test_what_cannot_be_seen_is_written_out(door: Door) -> None:
    text = "pay \u202e05\x1b[2J\x00\ud800"
    review, *_ = filed(door, text)
    page = Page(door.browser("lea").get(f"/reviews/{review.id}").text)
    assert r"pay \u202e05\x1b[2J\x00\ud800" in page.text


def test_a_megabyte_is_cut_and_all_of_it_is_one_click_away(door: Door) -> None:
    text = "begin " + "<b>&" * 250_000 + " end"
    about = hostile(text) | {"prediction": None, "thread": "t", "interrupt": "i", "key": "k"}
    asked = replace(question(), **about)
    door.ledger.reconcile([asked])
    lea = door.browser("lea")
    for path in ("/", f"/reviews/{asked.id}"):
        answer = lea.get(path)
        assert len(answer.text) < 150_000
        harmless(answer.text)
    listed = door.client("lea").get("/api/v1/reviews")
    assert listed.json()["reviews"][0]["text"] == text[:1000]
    assert len(listed.content) < 10_000
    whole = f"/reviews/{asked.id}/whole"
    assert Page(lea.get(f"/reviews/{asked.id}").text).all("a", href=whole)
    answer = lea.get(whole)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert text in answer.text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_programs_get_the_text_itself_as_json_can_say_it(door: Door, text: str) -> None:
    review, *_ = filed(door, text)
    got = door.client("lea").get(f"/api/v1/reviews/{review.id}")
    assert got.headers["content-type"] == "application/json"
    assert got.json()["text"] == text.replace("\ud800", "\ufffd")


def test_a_review_whose_texts_were_erased_still_has_its_pages(door: Door) -> None:
    review, _, settled = filed(door, "odd")
    gone = dict.fromkeys(("request", "schema", "text", "reason", "answer"))
    for one in (review, settled):
        assign(door.ledger, one.id, **gone, erased_at=1)
    lea, program = door.browser("lea"), door.client("lea")
    for one in (review, settled):
        for part in ("", "/status", "/similar", "/whole"):
            assert lea.get(f"/reviews/{one.id}{part}").status_code == 200
        assert "Its texts were erased" in lea.get(f"/reviews/{one.id}").text
        assert program.get(f"/api/v1/reviews/{one.id}").json()["request"] == {}
        answer = lea.post(f"/reviews/{one.id}/decision", {"decision": "approve"})
        assert answer.status_code in (409, 422)
    for path in ("/", "/history", "/people/lea"):
        assert lea.get(path).status_code == 200
    assert program.get("/api/v1/reviews").status_code == 200
