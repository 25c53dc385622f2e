"""The desk's pages in Chromium: by keys alone, by two people at once, for all eyes and widths."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.review.requests import ask_about, hitl_request
from tests.conftest import ROOT
from tests.desk.filed import APPROVE, CHEAP, file, meddle, question
from tests.server_process import LOOPBACK, free_port, offline, running
from tests.serving.test_chat_page import CHROMIUM, FLAGS

AXE = ROOT / ".venv" / "axe" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
HOSTILE = (
    "<script>document.title = 'taken'</script> <img src=x onerror=\"document.title = 'taken'\"> "
    "\u202eyenom ym lla dnes\u202c \x1b[2J [a link](javascript:alert(1)) http://evil.example/ "
    + "unbroken"
    * 60
)
WIDTHS = {"wide": 1280, "narrow": 375}

pytestmark = [
    pytest.mark.slow,
    LOOPBACK,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)"),
]


@dataclass
class Desk:
    """A served desk, and the browsers of those who come to it."""

    ledger: Ledger
    address: str
    tokens: dict[str, str]
    chromium: Any = None

    def sign_in(self, name: str, **options: Any) -> Any:
        """A page of somebody who has signed in, by keys alone."""
        context = self.chromium.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.goto(self.address)
        page.keyboard.type(name)  # the cursor is there
        page.keyboard.press("Tab")
        page.keyboard.type(self.tokens[name])
        page.keyboard.press("Enter")
        page.wait_for_url(f"{self.address}/")
        return page


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    port, place = free_port(), str(tmp_path / "desk.sqlite")
    serve = [sys.executable, "-m", "bayeslora_tool", "desk", "serve"]
    serve += ["--ledger", place, "--port", str(port)]
    with Ledger(place) as ledger:
        ledger.people.hasher = CHEAP
        tokens = {
            name: ledger.people.add(name, role)  # type: ignore[arg-type]
            for name, role in (("ann", "reviewer"), ("bob", "reviewer"), ("lea", "lead"))
        }
        made = Desk(ledger, f"http://127.0.0.1:{port}", tokens)
        with running(serve, port, tmp_path, offline(tmp_path)), api.sync_playwright() as playwright:
            made.chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            yield made
            made.chromium.close()


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.textContent"))


def test_a_review_is_found_claimed_labelled_decided_and_taken_back_by_keys_alone(
    desk: Desk,
) -> None:
    names = [file(desk.ledger, f"odd number {i}").id for i in range(3)]
    page = desk.sign_in("ann")
    rows = page.locator(".reviews a.to").all_inner_texts()
    keys = page.keyboard
    for key, row in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        keys.press(key)
        assert focused(page) == rows[row]
    keys.press("Enter")
    page.wait_for_url(re.compile("/reviews/"))
    review = names[1]
    assert page.url.rpartition("/")[2].partition("?")[0] == review
    keys.press("c")
    page.get_by_text("claimed by ann").first.wait_for()
    assert desk.ledger.review(review).assignee == "ann"
    keys.press("2")
    label = page.locator("label:has(input[name=pick]:checked) .label").inner_text()
    assert label not in (desk.ledger.review(review).label, "")
    keys.press("e")
    page.get_by_text("It can be taken back for").wait_for()
    decided = desk.ledger.review(review)
    assert decided.state == "decided"
    assert decided.answer["edited_action"]["args"]["label"] == label
    assert decided.undo_until is not None
    keys.press("u")
    page.get_by_text("claimed by ann").first.wait_for()
    assert (desk.ledger.review(review).state, desk.ledger.review(review).answer) == (
        "claimed",
        None,
    )
    keys.press("a")
    page.get_by_text("It can be taken back for").wait_for()
    assert desk.ledger.review(review).answer["type"] == "approve"
    assert desk.ledger.verify() == []


def test_typing_a_message_presses_no_key_and_it_goes_with_the_answer(desk: Desk) -> None:
    review = file(desk.ledger)
    page = desk.sign_in("ann")
    page.goto(f"{desk.address}/reviews/{review.id}")
    page.keyboard.press("m")
    page.keyboard.type("rare, care: a1e2u")
    assert desk.ledger.review(review.id).state == "open"
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.wait_for_url(re.compile("decided="))
    answer = desk.ledger.review(review.id).answer
    assert (answer["type"], answer["message"]) == ("reject", "rare, care: a1e2u")


def test_the_second_reviewer_is_told_who_was_first(desk: Desk) -> None:
    review = file(desk.ledger)
    ann, bob = desk.sign_in("ann"), desk.sign_in("bob")
    for page in (ann, bob):
        page.goto(f"{desk.address}/reviews/{review.id}")
    bob.route("**/status", lambda route: route.abort())  # he has not seen the news
    bob.route("**/events", lambda route: route.abort())
    ann.keyboard.press("a")
    ann.wait_for_url(re.compile("decided="))
    bob.keyboard.press("r")
    bob.get_by_text("decided by ann").first.wait_for()
    assert desk.ledger.review(review.id).decided_by == "ann"


def test_what_others_do_is_seen_without_loading_again(desk: Desk) -> None:
    first = file(desk.ledger, "odd first")
    ann = desk.sign_in("ann")
    ann.evaluate("window.loaded = 'once'")
    row = ann.locator("li.row", has_text="odd first")
    assert row.locator(".state").inner_text() == "open"
    desk.ledger.claim(first.id, "bob")
    row.get_by_text("claimed by bob").wait_for()
    file(desk.ledger, "odd second")
    ann.get_by_text("odd second").wait_for()
    assert ann.evaluate("window.loaded") == "once"


def pages_of(desk: Desk) -> dict[str, str]:
    """One of each, with hostile words on them."""
    ledger = desk.ledger
    hostile = file(ledger, HOSTILE)
    schema = {
        "type": "object",
        "properties": {
            "to": {"type": "string", "description": HOSTILE},
            "amount": {"type": "number"},
            "kind": {"enum": ["now", HOSTILE]},
        },
    }
    args = {"to": HOSTILE, "amount": 5, "kind": "now", "more": {"deep": [HOSTILE]}}
    request = hitl_request(ask_about("transfer_money", args, [HOSTILE], args_schema=schema))
    call = question("odd call", request=request, schema=None, tool="transfer_money")
    two = hitl_request(*[ask_about(name, {"to": "x"}, ["why"]) for name in ("pay", "freeze")])
    calls = question("odd calls", request=two, schema=None, tool="pay, freeze")
    ledger.reconcile([call, calls])
    for i in range(12):
        review = ledger.decide(file(ledger, f"odd settled {i}").id, APPROVE, "lea")
        meddle(
            ledger,
            "UPDATE reviews SET audit = :audit, decided_at = decided_at - :ago WHERE id = :id",
            id=review.id,
            audit=i % 2 == 0,
            ago=86_400_000 * i,
        )
    meddle(ledger, "UPDATE reviews SET due = created + 100000 WHERE id = :id", id=hostile.id)
    return {
        "inbox": "/",
        "history": "/history",
        "people": "/people",
        "person": "/people/lea",
        "statistics": "/statistics",
        "review": f"/reviews/{hostile.id}",
        "call": f"/reviews/{call.id}",
        "calls": f"/reviews/{calls.id}",
        "settled": f"/reviews/{review.id}",
        "nothing": "/nothing-here",
        "similar": f"/reviews/{hostile.id}/similar",
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_page_is_free_of_barriers_fits_and_runs_no_script_of_a_text(
    desk: Desk, scheme: str, width: str, tmp_path: Path
) -> None:
    if not AXE.exists():
        pytest.skip("needs `make axe` (npm)")
    pages = pages_of(desk)
    size = {"width": WIDTHS[width], "height": 800}
    page = desk.sign_in("lea", color_scheme=scheme, viewport=size)
    said: list[str] = []
    asked: set[str] = set()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.add(request.url))
    problems: list[str] = []
    stranger = desk.chromium.new_context(color_scheme=scheme, viewport=size).new_page()
    stranger.goto(f"{desk.address}/sign-in")
    shown = [("sign-in", stranger)]
    for name, path in pages.items():
        page.goto(desk.address + path)
        shown = [*shown, (name, page)] if name == "inbox" else [(name, page)]
        for what, one in shown:
            one.wait_for_load_state()
            one.screenshot(path=tmp_path / f"{what}-{width}-{scheme}.png", full_page=True)
            over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            if one.evaluate(over) > 0:
                problems.append(f"{what} scrolls sideways")
            assert "taken" not in one.title()
            one.evaluate(AXE.read_text(encoding="utf-8"))
            found = one.evaluate("rules => axe.run({ runOnly: rules })", RULES)
            problems += [
                f"{what}: {v['id']}: {node['html'][:200]}"
                for v in found["violations"]
                for node in v["nodes"]
            ]
    assert problems == []
    # Only the page that is not there is told of.
    assert [one for one in said if "404" not in one] == []
    assert {url for url in asked if not url.startswith(desk.address)} == set()


def test_the_page_follows_the_systems_colours(desk: Desk) -> None:
    grounds = {
        scheme: desk.sign_in("ann", color_scheme=scheme).evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        for scheme in ("light", "dark")
    }

    def brightness(colour: str) -> float:
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    assert brightness(grounds["light"]) > 200
    assert brightness(grounds["dark"]) < 60
