"""What the pages show, and which reviews they find."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.routing import Route
from bayeslora_tool.policy import Policy, decide, policy_fingerprint
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.answer_types import answer_type
from bayeslora_tool.review.requests import review_request
from bayeslora_tool.serving.desk.showing import bars, needs
from tests.desk.filed import APPROVE, POLICY, REJECT, file, question
from tests.serving.desk.door import Door, Page, Staff

LABELS = [f"label {n}" for n in range(12)]


def doubtful(ledger: Ledger, policy: Policy = POLICY, **scores: Any) -> FiledReview:
    """A review of a prediction over twelve labels."""
    shares = dict.fromkeys(LABELS, 0.07) | {"label 3": 0.15, "label 7": 0.15}
    known = question("odd").prediction
    assert known is not None
    values = {"label": "label 3", "confidence": 0.15, "variance": 0.0004, "probabilities": shares}
    prediction = Prediction.from_dict({**known, **values, **scores})
    reason = decide(prediction, policy).reason
    request = review_request(
        text="odd", prediction=prediction.to_dict(), reason=reason, labels=LABELS
    )
    asked = question(
        "odd",
        request=request,
        schema=TypeAdapter(answer_type("review", request)).json_schema(),
        prediction=prediction.to_dict(),
        reason=reason,
        policy=policy_fingerprint(policy),
    )
    ledger.reconcile([asked])
    return ledger.review(asked.id)


def test_the_likeliest_labels_have_bars_and_the_first_its_spread(ledger: Ledger) -> None:
    found = bars(doubtful(ledger))
    assert [bar.label for bar in found][:2] == ["label 3", "label 7"]
    assert len(found) == 9
    assert found[0][1:] == pytest.approx((15.0, 13.0, 17.0))  # one standard deviation: 0.02
    assert found[1][1:] == (15.0, None, None)


@pytest.mark.parametrize("variance", [float("nan"), 0.25])
def test_a_spread_stays_on_the_scale_or_is_not_there(ledger: Ledger, variance: float) -> None:
    first = bars(doubtful(ledger, variance=variance))[0]
    assert (first.low, first.high) == ((None, None) if variance != 0.25 else (0.0, 65.0))


def test_what_the_policy_would_need_is_what_decides(ledger: Ledger) -> None:
    policy = replace(POLICY, tau_novelty=0.9, tau_sure=0.5, tau_foreign=0.99)
    review = doubtful(ledger, policy, novelty=0.95, sureness=0.7, foreign=None)
    assert [str(need.what) for need in needs(review, policy)] == [
        "confidence", "variance", "novelty", "sureness",
    ]  # fmt: skip
    assert [need.met for need in needs(review, policy)] == [False, True, False, True]
    assert needs(review, policy)[0][:3] == ("confidence", "0.15", "needs at least 0.80")
    assert needs(review, None) == []
    # Unmet exactly where the policy stops: with all met it proceeds.
    assert review.prediction is not None
    scores = dict.fromkeys(LABELS, 0.0) | {"label 3": 1.0}
    better = {"novelty": 0.1, "confidence": 1.0, "probabilities": scores, "entropy": 0.0}
    sure = Prediction.from_dict({**review.prediction, **better, "mutual_information": 0.0})
    assert decide(sure, policy).action == "proceed"
    assert all(need.met for need in needs(replace(review, prediction=sure.to_dict()), policy))
    lost = replace(review, prediction={**sure.to_dict(), "foreign": float("nan")})
    assert [need.what for need in needs(lost, policy) if not need.met] == ["foreign words"]


def test_a_review_says_why_it_is_asked_and_what_would_have_been_needed(
    ledger: Ledger, staff: Staff
) -> None:
    review = doubtful(ledger)
    for policies, says in (
        ([POLICY], "confidence 0.15 , needs at least 0.80"),
        ([], "is not known"),
    ):
        door = Door(ledger, staff, policies=policies)
        text = Page(door.browser("ann").get(f"/reviews/{review.id}").text).text
        assert "Not sure enough: 'label 3' with confidence 0.150" in text
        assert says in text


def test_nine_labels_have_a_key_and_the_others_are_in_a_list(door: Door) -> None:
    review = doubtful(door.ledger)
    page = Page(door.browser("ann").get(f"/reviews/{review.id}").text)
    picks = page.all("input", name="pick")
    assert [one["data-pick"] for one in picks] == [str(n) for n in range(1, 10)]
    others = [one["value"] for one in page.all("option") if one.get("value")]
    assert others == ["9", "10", "11"]
    ann = door.browser("ann")
    sent = {"decision": "edit", "pick": "1", "pick-other": "10"}
    assert ann.post(f"/reviews/{review.id}/decision", sent).status_code == 303
    answer: Any = door.ledger.review(review.id).answer
    named = answer["edited_action"]["args"]["label"]
    assert named in LABELS
    assert named not in [bar.label for bar in bars(review)]


def found(door: Door, name: str, path: str, **words: Any) -> list[str]:
    """Texts of the reviews that a page lists."""
    page = Page(door.browser(name).get(path, params=words).text)
    ids = [one["href"] or "" for one in page.all("a") if one.get("class") == "to"]
    return [str(door.ledger.review(one.split("/")[2].partition("?")[0]).text) for one in ids]


def test_the_inbox_finds_what_its_filter_says(door: Door) -> None:
    ledger = door.ledger
    card = [Route(group="cards")]
    reviews = {
        name: file(ledger, name, **options)
        for name, options in (
            ("odd card", {"routes": card, "due": 100}),
            ("odd loan", {"routes": [Route(group="loans")], "priority": 5}),
            ("odd all", {"due": 50}),
        )
    }
    ledger.claim(reviews["odd card"].id, "ann")
    assert found(door, "lea", "/") == ["odd loan", "odd all", "odd card"]
    assert found(door, "ann", "/") == ["odd all", "odd card"]
    assert found(door, "cid", "/") == ["odd all"]
    assert found(door, "lea", "/", order="age") == ["odd card", "odd loan", "odd all"]
    assert found(door, "lea", "/", group="loans") == ["odd loan", "odd all"]
    assert found(door, "ann", "/", mine="true") == ["odd card"]
    assert found(door, "lea", "/", mine="true") == []
    assert found(door, "lea", "/", state="claimed") == ["odd card"]
    assert found(door, "lea", "/", q="LOAN") == ["odd loan"]
    assert found(door, "lea", "/", tool="act_on_label", label="yes", audit="false") != []
    assert found(door, "lea", "/", tool="nothing") == []
    assert found(door, "lea", "/", audit="true") == []
    for words in (
        {"state": "nix"},
        {"order": "nix"},
        {"after": "nix"},
        {"audit": "perhaps"},
        {"tool": "\0"},
    ):
        answer = door.browser("lea").get("/", params=words)
        assert answer.status_code == 422, words
    assert door.browser("ann").get("/", params={"group": "loans"}).status_code == 403


def test_counts_are_of_what_one_may_read(door: Door) -> None:
    file(door.ledger, "odd card", routes=[Route(group="cards")])
    file(door.ledger, "odd all")
    for name, n in (("ann", 2), ("cid", 1), ("aud", 2)):
        text = Page(door.browser(name).get("/").text).text
        assert f"{n} open 0 claimed" in text


def test_pages_follow_each_other_and_htmx_gets_parts_of_them(door: Door) -> None:
    for n in range(7):
        file(door.ledger, f"odd {n}")
    lea = door.browser("lea")
    seen: list[str] = []
    path = "/?limit=3"
    for size in (3, 3, 1):
        page = Page(lea.get(path).text)
        hrefs = [one["href"] or "" for one in page.all("a") if one.get("class") == "to"]
        assert len(hrefs) == size
        seen += hrefs
        (more,) = [one["href"] for one in page.all("a", **{"class": "button"})] or [None]
        part = lea.get(path, headers={"HX-Request": "true", "HX-Target": "list"}).text
        assert "<html" not in part
        assert part.count('class="to"') == size
        path = more or ""
    assert len(set(seen)) == 7
    assert path == ""
    answer = door.stranger().get("/", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/sign-in")


def test_history_has_what_is_settled_the_newest_first(door: Door) -> None:
    ledger = door.ledger
    names = ["odd a", "odd b", "odd c"]
    for name in names:
        file(ledger, name)
    first, second, _ = (ledger.review(one.id) for one in ledger.reviews())
    ledger.decide(first.id, APPROVE, "ann")
    ledger.decide(second.id, REJECT | {"message": "a telling word"}, "lea")
    assert found(door, "lea", "/history") == ["odd b", "odd a"]
    assert found(door, "lea", "/history", by="ann") == ["odd a"]
    assert found(door, "lea", "/history", q="telling") == ["odd b"]
    assert found(door, "lea", "/history", state="applied") == []
    page = Page(door.browser("lea").get("/history").text)
    assert "approve: yes" in page.text
    text = Page(door.browser("lea").get(f"/reviews/{second.id}").text).text
    assert "Message of lea a telling word" in text


def test_a_persons_page_has_their_numbers(door: Door) -> None:
    ledger = door.ledger
    edit = {"type": "edit", "edited_action": {"name": "act_on_label", "args": {"label": "no"}}}
    for n, answer in enumerate([APPROVE, APPROVE, edit, REJECT]):
        ledger.decide(file(ledger, f"odd {n}").id, answer, "ann")
    own = Page(door.browser("ann").get("/people/ann").text).text
    assert "decided lately 4" in own
    assert "67 % of 3 labels" in own
    assert "decided lately 4" in Page(door.browser("aud").get("/people/ann").text).text
    assert door.browser("bob").get("/people/ann").status_code == 403
    assert door.browser("lea").get("/people/nobody").status_code == 404
    ledger.people.remove("ann")
    assert "no longer a reviewer" in door.browser("lea").get("/people/ann").text


def test_the_same_conversation_and_similar_reviews_are_shown_as_far_as_one_may_read(
    ledger: Ledger,
    staff: Staff,
) -> None:
    mine = question("odd one", thread="t")
    other = question("odd two", thread="t", interrupt="2")
    hidden = question("odd three", thread="t", interrupt="3")
    ledger.reconcile([mine, other])
    ledger.reconcile([hidden], routes=[Route(group="loans")])
    elsewhere = file(ledger, "odd elsewhere")
    ledger.decide(elsewhere.id, APPROVE, "lea")
    alike = [ledger.review(elsewhere.id), ledger.review(hidden.id)]
    door = Door(ledger, staff, similar=lambda review, who: alike if review.id == mine.id else [])
    ann = door.browser("ann")
    text = Page(ann.get(f"/reviews/{mine.id}").text).text
    assert "In the same conversation odd two" in text
    assert "odd three" not in text
    for headers in ({}, {"HX-Request": "true"}):
        text = Page(ann.get(f"/reviews/{mine.id}/similar", headers=headers).text).text
        assert "odd elsewhere approve: yes" in text
        assert "odd three" not in text
    assert "None that you may read" in ann.get(f"/reviews/{other.id}/similar").text
