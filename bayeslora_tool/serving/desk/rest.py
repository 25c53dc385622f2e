"""The REST interface, under ``/api/v1``: what the page does, for programs, by the same rules."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from bayeslora_tool.desk.answer import check_plain
from bayeslora_tool.desk.people import SignInError
from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.serving.desk.acting import by_token
from bayeslora_tool.serving.desk.answering import check_edits
from bayeslora_tool.serving.desk.identity import Client
from bayeslora_tool.serving.desk.published import (
    Counts,
    Event,
    Me,
    Problem,
    Review,
    Reviews,
    SignedIn,
    published,
    summed_up,
)
from bayeslora_tool.serving.desk.reading import readable
from bayeslora_tool.serving.desk.refusals import refusal
from bayeslora_tool.serving.desk.searching import WAITING, Search, count, find, search
from bayeslora_tool.serving.desk.setting import Setting, setting_of

_MOST_UNDO = 60.0


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": _MEANING[status]} for status in statuses}


_MEANING = {
    401: "Nobody is signed in by this token, or the name and token are not right.",
    403: "Your role or your groups do not allow this.",
    404: "There is no such review.",
    409: "Somebody was quicker, or the review is over; the body says who.",
    413: "The body is too large.",
    422: "What was sent makes no sense here; the message says why.",
    503: "The ledger does not answer; try again.",
}
_READS = _problems(401, 403, 404, 422, 503)
_CHANGES = _problems(401, 403, 404, 409, 413, 422, 503)

router = APIRouter(prefix="/api/v1", tags=["desk"])
Asked = Annotated[Search, Depends(search)]


class SignIn(BaseModel):
    """Who you are."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=200)
    token: str = Field(max_length=200, description="As `bayeslora desk add-reviewer` gave it.")


class Claim(BaseModel):
    """For how long."""

    model_config = ConfigDict(extra="forbid")
    lease: float = Field(600.0, gt=0, le=86_400, description="Seconds.")


class Decision(BaseModel):
    """An answer."""

    model_config = ConfigDict(extra="forbid")
    answer: Any = Field(
        description="A HITLResponse (`{'decisions': [...]}`) or, to one action, a bare decision "
        "like `{'type': 'approve'}`; what may be said is in the review's `answers`."
    )
    undo: float = Field(
        0.0, ge=0, le=_MOST_UNDO, description="Seconds in which you may take it back."
    )


@router.post("/session", response_model=SignedIn, responses=_problems(401, 413, 422, 503))
def begin_session(
    request: Request, who: SignIn, setting: Annotated[Setting, Depends(by_token)]
) -> Response | SignedIn:
    """Sign in: gives the secret that goes with each request as bearer token."""
    people = setting.ledger.people
    try:
        secret = people.sign_in(who.name, who.token)
    except SignInError as error:
        return refusal(request, 401, str(error), problem="sign in")
    session = people.session(secret)
    if session is None:
        raise HTTPException(401, "the session has ended already; sign in again")
    return SignedIn(secret=secret, ends=session.ends)


@router.delete("/session", status_code=204, responses=_problems(401, 503))
def end_session(request: Request, who: Client) -> None:
    """Sign out: the token is worth nothing afterwards."""
    if who.secret is not None:
        setting_of(request).ledger.people.sign_out(who.secret)


@router.get("/me", responses=_problems(401, 403, 503))
def me(who: Client) -> Me:
    """Who you are here, and behind a proxy the `X-CSRF-Token` that changes need."""
    person = who.person
    token = who.csrf if who.secret is None else None
    return Me(name=person.name, role=person.role, groups=sorted(person.groups), csrf=token)


@router.get("/reviews", responses=_problems(401, 403, 422, 503))
def list_reviews(request: Request, who: Client, asked: Asked) -> Reviews:
    """Reviews that you may read, in short; `next` is the `after` of those that follow."""
    found = find(setting_of(request).ledger, who.person, asked, *WAITING)
    return Reviews(reviews=[summed_up(one) for one in found.reviews], next=found.next)


@router.get("/counts", responses=_problems(401, 403, 422, 503))
def count_reviews(request: Request, who: Client, asked: Asked) -> Counts:
    """How many reviews that you may read there are, by state."""
    return Counts(**count(setting_of(request).ledger, who.person, asked))


@router.get("/reviews/{name}", responses=_READS)
def get_review(request: Request, who: Client, name: str) -> Review:
    """One review."""
    return published(readable(setting_of(request), who, name))


@router.get("/reviews/{name}/events", responses=_READS)
def list_events(request: Request, who: Client, name: str) -> list[Event]:
    """What happened to it, in order."""
    setting = setting_of(request)
    events = setting.ledger.events(readable(setting, who, name).id)
    return [Event(**{key: event[key] for key in Event.model_fields}) for event in events]


@router.post("/reviews/{name}/claim", responses=_CHANGES)
def claim_review(
    request: Request, who: Client, name: str, wanted: Annotated[Claim | None, Body()] = None
) -> Review:
    """Take it, so that nobody else decides it meanwhile."""
    setting = setting_of(request)
    lease = (wanted or Claim(lease=600.0)).lease
    name = readable(setting, who, name).id
    return published(setting.ledger.claim(name, who.person, lease=lease))


@router.post("/reviews/{name}/release", responses=_CHANGES)
def release_review(request: Request, who: Client, name: str) -> Review:
    """Give it back."""
    setting = setting_of(request)
    name = readable(setting, who, name).id
    return published(setting.ledger.release(name, who.person))


@router.post("/reviews/{name}/decision", response_model=Review, responses=_CHANGES)
def decide_review(
    request: Request, who: Client, name: str, decision: Decision
) -> Response | Review:
    """Decide it, once and for all; where two have to agree, this is one of the answers."""
    setting = setting_of(request)
    review = readable(setting, who, name)
    try:
        check_plain(decision.answer)
        check_edits(review, decision.answer)
        found = setting.ledger.decide(review.id, decision.answer, who.person, undo=decision.undo)
    except ReviewError:
        raise
    except ValueError as error:
        return refusal(request, 422, str(error), problem="answer")
    return published(found)


@router.post("/reviews/{name}/undo", responses=_CHANGES)
def undo_review(request: Request, who: Client, name: str) -> Review:
    """Take your answer back, while that is possible."""
    setting = setting_of(request)
    name = readable(setting, who, name).id
    return published(setting.ledger.undo(name, who.person))
