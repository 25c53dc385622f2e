"""What reviewers do on the page: sign in and out, claim, decide, take back. All by plain forms."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from bayeslora_tool.desk.people import SignInError
from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.serving.desk.answering import answer_of
from bayeslora_tool.serving.desk.identity import (
    CSRF_FIELD,
    Changer,
    Sent,
    before_signing_in,
    check_sign_in,
    cookie_name,
    keep,
    keep_mark,
)
from bayeslora_tool.serving.desk.reading import readable, shown_review
from bayeslora_tool.serving.desk.rendering import page
from bayeslora_tool.serving.desk.searching import kept
from bayeslora_tool.serving.desk.setting import Setting, setting_of

router = APIRouter(include_in_schema=False)

UNDO = 10.0  # seconds in which an answer may be taken back


def by_token(request: Request) -> Setting:
    """The setting of a desk where people sign in themselves."""
    setting = setting_of(request)
    if setting.binding.proxy is not None:
        raise HTTPException(404, "here the proxy says who you are")
    return setting


Own = Annotated[Setting, Depends(by_token)]


@router.get("/sign-in")
def sign_in_page(request: Request, setting: Own, next: str = "") -> Response:  # noqa: A002
    """The form for signing in."""
    return _sign_in_page(request, setting, next)


@router.post("/sign-in")
def sign_in(request: Request, setting: Own, sent: Sent) -> Response:
    """Begin a session."""
    check_sign_in(request, setting, sent.get(CSRF_FIELD))
    name, token, there = (str(sent.get(word) or "") for word in ("name", "token", "next"))
    try:
        secret = setting.ledger.people.sign_in(name.strip(), token.strip())
    except SignInError as error:
        return _sign_in_page(request, setting, there, name, str(error), 401)
    answer = RedirectResponse(_own_page(there), 303)
    keep(answer, setting, cookie_name(setting), secret)
    return answer


@router.post("/sign-out")
def sign_out(setting: Own, who: Changer) -> Response:
    """End the session."""
    if who.secret is not None:
        setting.ledger.people.sign_out(who.secret)
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(
        cookie_name(setting), secure=setting.binding.secure, httponly=True, samesite="strict"
    )
    return answer


@router.post("/reviews/{name}/claim")
def claim(request: Request, who: Changer, name: str, sent: Sent) -> Response:
    """Take a review."""
    setting = setting_of(request)
    setting.ledger.claim(readable(setting, who, name).id, who.person)
    return _to_review(name, sent)


@router.post("/reviews/{name}/release")
def release(request: Request, who: Changer, name: str, sent: Sent) -> Response:
    """Give it back."""
    setting = setting_of(request)
    setting.ledger.release(readable(setting, who, name).id, who.person)
    return _to_review(name, sent)


@router.post("/reviews/{name}/decision")
def decide(request: Request, who: Changer, name: str, sent: Sent) -> Response:
    """Decide it; for some seconds that may be taken back."""
    setting = setting_of(request)
    review = readable(setting, who, name)
    back = str(sent.get("back") or "")
    try:
        setting.ledger.decide(review.id, answer_of(review, sent), who.person, undo=UNDO)
    except ReviewError:
        raise
    except ValueError as error:
        return shown_review(request, who, name, back, 422, str(error), sent)
    return RedirectResponse(f"/?{kept(back, decided=review.id)}", 303)


@router.post("/reviews/{name}/undo")
def undo(request: Request, who: Changer, name: str, sent: Sent) -> Response:
    """Take the answer back."""
    setting = setting_of(request)
    setting.ledger.undo(readable(setting, who, name).id, who.person)
    return _to_review(name, sent)


def _sign_in_page(
    request: Request,
    setting: Setting,
    there: str,
    name: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    mark, token = before_signing_in(request, setting)
    content: dict[str, Any] = {"token": token, "next": there, "name": name, "problem": problem}
    answer = page(request, "sign_in.html", status=status, **content)
    keep_mark(answer, setting, mark)
    return answer


def _own_page(there: str) -> str:
    """Where to go after signing in: the path of a page here, whatever the address says."""
    path, _, query = there.partition("?")
    parts = path.split("/")
    named = parts[1:]
    fine = not parts[0] and 1 <= len(named) <= 3 and all(p.isascii() and p.isalnum() for p in named)
    if not fine:
        return "/"
    words = urlencode(parse_qsl(query), errors="replace")
    return path + (f"?{words}" if words else "")


def _to_review(name: str, sent: Any) -> Response:
    back = kept(str(sent.get("back") or ""))
    return RedirectResponse(
        f"/reviews/{name}" + (f"?{urlencode({'back': back})}" if back else ""), 303
    )
