"""The page of figures, and its pictures beside the numbers that they stand for."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from bayeslora_tool.desk.figures import OUTCOMES
from bayeslora_tool.monitoring.betting import RiskMonitor
from bayeslora_tool.serving.desk import plots
from tests.desk.filed import APPROVE, REJECT, file
from tests.serving.desk.door import Door, Page, assign


def decided(door: Door) -> None:
    for i, (answer, by, group) in enumerate(
        [(APPROVE, "ann", "cards"), (APPROVE, "bob", "loans"), (REJECT, "ann", None)]
    ):
        review = door.ledger.decide(file(door.ledger, f"odd {i}").id, answer, by)
        assign(door.ledger, review.id, group=group)
    for i in range(4):
        review = door.ledger.decide(file(door.ledger, f"odd audit {i}").id, APPROVE, "lea")
        assign(door.ledger, review.id, audit=True)


def rows(page: str) -> list[list[str]]:
    """Of all tables, the words of each cell."""
    found = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [[Page(cell).text for cell in re.split(r"</t[dh]>", row)[:-1]] for row in found]


def test_the_page_and_its_tables_show_what_was_decided(door: Door) -> None:
    decided(door)
    text = door.browser("aud").get("/statistics").text
    shown = rows(text)
    (day,) = [row for row in shown if re.match(r"\d{4}-", row[0])]
    assert dict(zip(OUTCOMES, day[1:], strict=True)) == {
        "approved": "2", "edited": "0", "rejected": "1", "responded": "0", "other": "0",
        "expired": "0",
    }  # fmt: skip
    assert {row[0]: row[1] for row in shown if row[0] in ("ann", "bob")} == {"ann": "2", "bob": "1"}
    groups = [row[0] for row in shown if row[0].startswith(("group", "for"))]
    assert groups == ["for everybody", "group cards", "group loans"]
    bound = 100 * (1 - 0.05 ** (1 / 4))  # exact where none of four was wrong
    assert f"{bound:.1f} %" in Page(text).text
    assert text.count('<svg class="plot"') == 2


def test_a_reviewer_sees_figures_of_their_groups_and_of_no_colleague(door: Door) -> None:
    decided(door)
    shown = rows(door.browser("ann").get("/statistics").text)
    names = {row[0] for row in shown}
    assert {"ann", "for everybody", "group cards"} <= names
    assert not {"bob", "group loans"} & names
    assert "bob" in {row[0] for row in rows(door.browser("lea").get("/statistics").text)}


@pytest.mark.parametrize("query", ["days=0", "days=x", "target=0", "target=nan", "target=60"])
def test_a_period_or_risk_that_makes_no_sense_is_refused(door: Door, query: str) -> None:
    assert door.browser("aud").get(f"/statistics?{query}").status_code == 422


def test_an_empty_desk_has_a_page_too(door: Door) -> None:
    text = Page(door.browser("lea").get("/statistics?days=1").text).text
    assert "Settled in 1 day (UTC)" in text
    assert "Nothing was settled." in text


def drawing(picture: str) -> ElementTree.Element:
    """Which must be well-formed, and carry no style or script that the desk forbids."""
    found = ElementTree.fromstring(picture)
    for element in found.iter():
        assert element.tag in ("svg", "rect", "line", "polyline", "text", "title")
        assert not {"style", "onload", "href"} & {*element.keys()}
    return found


def test_bars_are_as_high_as_their_counts_and_stand_on_one_another() -> None:
    rng = random.Random(0)
    days = {f"2026-03-{i:02}": {o: rng.randrange(9) for o in OUTCOMES} for i in range(1, 31)}
    bars = [
        (float(one.attrib["x"]), float(one.attrib["y"]), float(one.attrib["height"]), one)
        for one in drawing(plots.outcomes(days)).iter("rect")
    ]
    told = {re.match(r"(\S+): (\d+) (\w+)", one[0].text or "").groups() for *_, one in bars}  # type: ignore[union-attr]
    assert told == {(d, str(n), o) for d, some in days.items() for o, n in some.items() if n}
    unit = {round(height / int((one[0].text or "").split()[1]), 1) for *_, height, one in bars}
    assert max(unit) - min(unit) < 0.15
    for (x, y, _, _), (other_x, other_y, height, _) in pairwise(bars):
        if x == other_x:
            assert other_y + height == pytest.approx(y, abs=0.11)
    assert min(y for _, y, _, _ in bars) >= 0


@pytest.mark.parametrize("n", [1, 7, 5000])
def test_the_curve_is_the_evidence_on_a_scale_of_powers_and_ends_at_the_last_audit(n: int) -> None:
    bets, rng = RiskMonitor(0.05), random.Random(1)
    wealth = [bets.update(rng.random() < 0.12) for _ in range(n)]
    found = drawing(plots.evidence(wealth, 0.05))
    (curve,) = found.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in curve.attrib["points"].split()]
    assert len(points) <= 202
    alarm = next(one for one in found.iter("line") if one.attrib["class"] == "alarm")
    # Two heights that are known give the scale: 1 at the beginning, and 20 at the alarm.
    one, twenty = points[0][1], float(alarm.attrib["y1"])
    expected = one + (twenty - one) * min(wealth[-1], 60) / math.log(20)
    assert points[-1][1] == pytest.approx(expected, abs=2)
    assert f"{n} audits" in [word.text for word in found.iter("text")]
