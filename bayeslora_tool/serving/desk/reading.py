"""The pages that show: inbox, a review, history, people. They change nothing."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

from bayeslora_tool.desk.review import FiledReview, digest_of
from bayeslora_tool.desk.roles import may
from bayeslora_tool.desk.states import UNDECIDED
from bayeslora_tool.quoting import visible
from bayeslora_tool.serving.desk import showing
from bayeslora_tool.serving.desk.arguments import fields
from bayeslora_tool.serving.desk.identity import Reader, Visitor
from bayeslora_tool.serving.desk.record import record_of
from bayeslora_tool.serving.desk.rendering import page
from bayeslora_tool.serving.desk.searching import SETTLED, WAITING, Search, count, find, search
from bayeslora_tool.serving.desk.setting import Setting, setting_of
from bayeslora_tool.serving.desk.streams import Heads

router = APIRouter(include_in_schema=False)
Asked = Annotated[Search, Depends(search)]

_ID = re.compile("[0-9a-f]{16}")
_LOOKED_AT = 200  # reviews of a person


@router.get("/")
def inbox(request: Request, who: Reader, asked: Asked, decided: str = "") -> HTMLResponse:
    """What waits, or part of it: the list alone, or its next rows, where htmx asks."""
    setting = setting_of(request)
    found = find(setting.ledger, who.person, asked, *WAITING)
    content: dict[str, Any] = {"reviews": found.reviews, "next": found.next, "asked": asked}
    if "hx-request" in request.headers and asked.after:
        return page(request, "rows.html", who, **content)
    content["counts"] = count(setting.ledger, who.person, asked)
    if request.headers.get("hx-target") == "list":
        return page(request, "list.html", who, **content)
    people = setting.ledger.people.all() if who.person.role != "reviewer" else [who.person]
    groups = sorted({group for person in people for group in person.groups})
    last = _just_decided(setting, who, decided)
    return page(request, "inbox.html", who, groups=groups, last=last, **content)


@router.get("/events")
async def events(request: Request, who: Reader) -> StreamingResponse:
    """The number of the ledger's last event, whenever there is another."""
    heads: Heads = request.app.state.heads
    if heads.full:  # a browser comes again
        raise HTTPException(503, "too many listen for news just now")
    headers = {"X-Accel-Buffering": "no"}  # a proxy passes each on at once
    return StreamingResponse(heads.stream(), media_type="text/event-stream", headers=headers)


@router.get("/reviews/{name}")
def review(request: Request, who: Reader, name: str, back: str = "") -> HTMLResponse:
    """One review, and what may be said to it."""
    return shown_review(request, who, name, back)


@router.get("/reviews/{name}/status")
def status(request: Request, who: Reader, name: str) -> HTMLResponse:
    """Where a review is now: part of its page."""
    found = readable(setting_of(request), who, name)
    return page(request, "status.html", who, review=found, verdict=showing.verdict(found))


@router.get("/reviews/{name}/similar")
def similar(request: Request, who: Reader, name: str) -> HTMLResponse:
    """Settled reviews like one, as far as they may be read: part of its page."""
    setting = setting_of(request)
    found = readable(setting, who, name)
    alike = setting.similar(found, who.person) if setting.similar else []
    rows = [(one, showing.verdict(one)) for one in alike if may(who.person, one, "read")]
    template = "similar.html" if "hx-request" in request.headers else "similar_page.html"
    return page(request, template, who, review=found, rows=rows)


@router.get("/reviews/{name}/whole")
def whole(request: Request, who: Reader, name: str) -> PlainTextResponse:
    """All of a review as plain text: its text, and the request as JSON."""
    found = readable(setting_of(request), who, name)
    request_ = json.dumps(found.request, indent=2)
    return PlainTextResponse(f"{visible(found.text or '')}\n\n{'-' * 80}\n{request_}\n")


@router.get("/history")
def history(request: Request, who: Reader, asked: Asked) -> HTMLResponse:
    """What is settled, the newest first."""
    ledger = setting_of(request).ledger
    found = find(ledger, who.person, asked, *SETTLED, order="recent")
    rows = [(one, showing.verdict(one)) for one in found.reviews]
    content: dict[str, Any] = {"rows": rows, "next": found.next, "asked": asked}
    part = "hx-request" in request.headers and asked.after
    return page(request, "past.html" if part else "history.html", who, **content)


@router.get("/people")
def people(request: Request, who: Reader) -> HTMLResponse:
    """Who may sign in."""
    everybody = setting_of(request).ledger.people.all()
    return page(request, "people.html", who, people=everybody)


@router.get("/people/{name}")
def person(request: Request, who: Reader, name: str) -> HTMLResponse:
    """What one person has decided; a reviewer sees their own page alone."""
    if who.person.role == "reviewer" and name != who.person.name:
        raise HTTPException(403, "a reviewer sees their own page; leads and auditors see all")
    setting = setting_of(request)
    asked = search(by=name, limit=_LOOKED_AT)
    found = find(setting.ledger, who.person, asked, "decided", "applied", order="recent")
    known = setting.ledger.people.get(name)
    if known is None and not found.reviews:
        raise HTTPException(404, "there is nobody of that name")
    rows = [(one, showing.verdict(one)) for one in found.reviews]
    record = record_of(found.reviews)
    content: dict[str, Any] = {"name": name, "person": known, "record": record, "rows": rows}
    return page(request, "person.html", who, **content)


def readable(setting: Setting, who: Visitor, name: str) -> FiledReview:
    """A review that somebody may read, by its whole id.

    Raises:
        ReviewError: There is none.
        HTTPException: It is not for them, or the id is none.
    """
    if not _ID.fullmatch(name):
        message = f"there is no review {name!r:.40}; an id has 16 digits and letters"
        raise HTTPException(404, message)
    found = setting.ledger.review(name)
    if not may(who.person, found, "read"):
        raise HTTPException(403, f"review {found.id} is for the group {found.group}")
    return found


def shown_review(
    request: Request,
    who: Visitor,
    name: str,
    back: str = "",
    status: int = 200,
    problem: str = "",
    sent: Any = None,
) -> HTMLResponse:
    """The page of a review.

    Args:
        request: That it answers.
        who: Reads it.
        name: Its id.
        back: Address of the inbox they come from.
        status: Of HTTP.
        problem: Of the answer that they have just sent.
        sent: That answer's form.
    """
    setting = setting_of(request)
    found = readable(setting, who, name)
    calls = []
    for index, action in enumerate(showing.calls(found)):
        schema = showing.args_schema(found, index)
        own = [] if showing.about_label(action) else fields(action.args, schema, index)
        calls.append((action, own, showing.about_label(action)))
    around = setting.ledger.reviews(graph=found.graph, thread=found.thread, limit=20)
    policy = setting.policies.get(found.policy or "")
    bars = showing.bars(found)
    content: dict[str, Any] = {
        "review": found,
        "calls": calls,
        "pickable": showing.pickable(found),
        "any_label": showing.any_label(found),
        "bars": bars,
        "picked_first": sum(bar.label in showing.pickable(found) for bar in bars),
        "needs": showing.needs(found, policy),
        "descriptions": showing.descriptions(found),
        "verdict": showing.verdict(found),
        "message": showing.message(found),
        "votes": [
            (vote.by, showing.in_short(found, vote.answer))
            for vote in setting.ledger.votes(found.id)
        ],
        "events": setting.ledger.events(found.id),
        "around": [
            (one, showing.verdict(one))
            for one in around
            if one.id != found.id and may(who.person, one, "read")
        ],
        "similar": setting.similar is not None,
        "answerable": found.state in UNDECIDED
        and may(who.person, found, "decide")
        and found.digest == found.shown
        and who.person.name not in found.voters
        and found.assignee in (None, who.person.name),
        "changed": bool(found.request) and digest_of(found.request) != found.shown,
        "back": back,
        "problem": problem,
        "sent": {key: str(value).replace("\r\n", "\n") for key, value in (sent or {}).items()},
    }
    return page(request, "review.html", who, status, **content)


def _just_decided(setting: Setting, who: Visitor, name: str) -> FiledReview | None:
    """The review that somebody comes from, while they may take their answer back."""
    if not name:
        return None
    found = readable(setting, who, name)
    return found if found.undo_until is not None else None
