"""The page of figures. It changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from bayeslora_tool.desk.figures import OUTCOMES
from bayeslora_tool.desk.roles import Person
from bayeslora_tool.desk.span import span
from bayeslora_tool.desk.statistics import Statistics, statistics
from bayeslora_tool.serving.desk import plots
from bayeslora_tool.serving.desk.identity import Reader
from bayeslora_tool.serving.desk.rendering import page
from bayeslora_tool.serving.desk.setting import setting_of

router = APIRouter(include_in_schema=False)


@router.get("/statistics")
def show(
    request: Request,
    who: Reader,
    days: Annotated[int, Query(ge=1, le=366)] = 30,
    target: Annotated[float, Query(ge=0.1, le=50)] = 5.0,
) -> HTMLResponse:
    """What is decided and how soon, who agrees, and what audits say of the rest.

    Args:
        request: Of a browser.
        who: Asks; a reviewer sees figures of what they may read, and no colleague's own.
        days: Of the period.
        target: The risk that was promised, in percent.
    """
    groups = who.person.groups if who.person.role == "reviewer" else None
    found = statistics(
        setting_of(request).ledger, days=days, groups=groups, target_risk=target / 100
    )
    found = _for(who.person, found)
    total = {one: sum(counts[one] for counts in found.days.values()) for one in OUTCOMES}
    curves = [plots.evidence(one.evidence, found.delta) if one.n else None for one in found.risks]
    return page(
        request,
        "statistics.html",
        who,
        found=found,
        total=total,
        picture=plots.outcomes(found.days),
        risks=[*zip(found.risks, curves, strict=True)],
        period=days,
        target=target,
        span=lambda seconds: "-" if seconds is None else span(seconds),
    )


def _for(person: Person, found: Statistics) -> Statistics:
    """Without what concerns other people, for a reviewer."""
    if person.role != "reviewer":
        return found

    name = person.name
    return replace(
        found,
        waited_by={who: one for who, one in found.waited_by.items() if who == name},
        agreed_by={who: one for who, one in found.agreed_by.items() if who == name},
        pairs={},
    )
