"""Who is at the door: by the cookie of a session, by its secret as a bearer token, or by the proxy.

With a proxy, its word alone counts. Every change names a token that a page of another site cannot
know; who sends a bearer token has shown that already.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from secrets import token_urlsafe
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, HTTPException, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import FormData

from bayeslora_tool.desk.roles import Person
from bayeslora_tool.serving.desk.setting import Setting, setting_of

CSRF_FIELD, CSRF_HEADER = "csrf", "X-CSRF-Token"
_FORM = "application/x-www-form-urlencoded"
_bearer = HTTPBearer(auto_error=False, description="What `POST /api/v1/session` gave.")


class Visitor(NamedTuple):
    """Somebody who may come in."""

    person: Person
    csrf: str
    """Goes with every change."""

    secret: str | None = None
    """Of their session; None behind a proxy."""


class SignInNeededError(Exception):
    """Nobody is signed in, and the page is for those who are."""


def visitor(request: Request) -> Visitor:
    """Who opens a page.

    Raises:
        SignInNeededError: Nobody who is known.
    """
    setting = setting_of(request)
    if setting.binding.proxy is not None:
        return _by_proxy(request, setting)
    found = _of_session(setting, request.cookies.get(cookie_name(setting)))
    if found is None:
        raise SignInNeededError
    return found


def client(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Visitor:
    """Who calls the REST interface; no cookie counts there."""
    setting = setting_of(request)
    if setting.binding.proxy is not None:
        found = _by_proxy(request, setting)
        if request.method != "GET":
            _check(found.csrf, request.headers.get(CSRF_HEADER))
        return found
    by_token = _of_session(setting, given.credentials if given else None)
    if by_token is None:
        raise HTTPException(
            401,
            "sign in first: POST /api/v1/session with `name` and `token`, then send the `secret` "
            "as bearer token",
            {"WWW-Authenticate": "Bearer"},
        )
    return by_token


async def form(request: Request) -> FormData:
    """What a form has sent; the guard has bounded it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HTTPException(415, f"a form is sent as {_FORM}")
    return await request.form()


def changing(
    request: Request,
    who: Annotated[Visitor, Depends(visitor)],
    sent: Annotated[FormData, Depends(form)],
) -> Visitor:
    """Who changes something by a form of the desk's own page."""
    _check(who.csrf, _word(sent.get(CSRF_FIELD)) or request.headers.get(CSRF_HEADER))
    return who


Reader = Annotated[Visitor, Depends(visitor)]
Changer = Annotated[Visitor, Depends(changing)]
Client = Annotated[Visitor, Depends(client)]
Sent = Annotated[FormData, Depends(form)]


def cookie_name(setting: Setting) -> str:
    """Of the session's cookie: under TLS one that no other host and no plain page can set."""
    return "__Host-bayeslora-desk" if setting.binding.secure else "bayeslora-desk"


def keep(response: Response, setting: Setting, name: str, value: str) -> None:
    """Set a cookie that scripts do not see and other sites do not send."""
    response.set_cookie(
        name, value, path="/", httponly=True, samesite="strict", secure=setting.binding.secure
    )


def before_signing_in(request: Request, setting: Setting) -> tuple[str, str]:
    """A browser's mark, and the token that its form for signing in must have."""
    mark = request.cookies.get(_mark_name(setting)) or token_urlsafe(16)
    return mark, _sealed(setting, f"sign-in {mark}")


def keep_mark(response: Response, setting: Setting, mark: str) -> None:
    """So that the browser comes back with it."""
    keep(response, setting, _mark_name(setting), mark)


def check_sign_in(request: Request, setting: Setting, token: Any) -> None:
    """Refuse a form for signing in that this browser was not given."""
    known = _mark_name(setting) in request.cookies
    _check(before_signing_in(request, setting)[1] if known else "", _word(token))


def _of_session(setting: Setting, secret: str | None) -> Visitor | None:
    session = setting.ledger.people.session(secret) if secret else None
    return None if session is None else Visitor(session.person, session.csrf, secret)


def _by_proxy(request: Request, setting: Setting) -> Visitor:
    """Whom the proxy names; the guard has seen that it is the proxy."""
    proxy = setting.binding.proxy
    assert proxy is not None
    named = request.headers.getlist(proxy.header)
    if len(named) != 1 or not named[0].strip():
        raise HTTPException(401, f"the proxy has not said who you are, by one {proxy.header}")
    name = named[0].strip().encode("latin-1").decode("utf-8", "replace")  # as proxies send it
    person = setting.ledger.people.get(name)
    if person is None:
        raise HTTPException(
            403,
            f"{name!r:.60} is no reviewer of this desk; `bayeslora desk add-reviewer` makes one",
        )
    return Visitor(person, _sealed(setting, f"proxy {person.name}"))


def _check(known: str, given: str | None) -> None:
    """Whether a token is the one that was given out."""
    if not known or not hmac.compare_digest(known.encode(), (given or "").encode(errors="replace")):
        raise HTTPException(403, "this form is not one that you were given; load the page again")


def _sealed(setting: Setting, what: str) -> str:
    return hmac.new(setting.seal, what.encode(errors="replace"), sha256).hexdigest()


def _mark_name(setting: Setting) -> str:
    return cookie_name(setting) + "-mark"


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None
