"""What somebody reads whose request was not met: a page, or JSON for programs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.serving.desk.identity import SignInNeededError
from bayeslora_tool.serving.desk.rendering import page

logger = logging.getLogger(__name__)

_STATUS = {"unknown": 404, "forbidden": 403}  # others 409
_TITLES = {
    401: "Who are you?",
    403: "Not for you",
    404: "Nothing here",
    405: "Not like this",
    409: "Somebody was quicker",
    413: "Too large",
    415: "Not like this",
    422: "That does not fit",
    429: "Too often",
    503: "The ledger does not answer",
}
_AGAIN = "5"  # seconds


def add_refusals(app: FastAPI) -> None:
    """Have an app answer errors so."""
    app.add_exception_handler(SignInNeededError, _sign_in)
    app.add_exception_handler(ReviewError, _review)
    app.add_exception_handler(LedgerError, _ledger)
    app.add_exception_handler(RequestValidationError, _words)
    app.add_exception_handler(AnyHTTPException, _http)


def refusal(
    request: Request,
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """The answer to a request that was not met.

    Args:
        request: That it answers.
        status: Of HTTP.
        message: What was wrong, and what to do.
        headers: To be sent with it.
        more: For programs.
    """
    answer: Response
    if request.url.path.startswith("/api/"):
        answer = JSONResponse({"message": message} | more, status)
    else:
        again = status == 503 and request.method == "GET"
        title = _TITLES.get(status, "That did not work")
        answer = page(
            request, "problem.html", status=status, title=title, message=message, again=again
        )
    answer.headers.update(headers or {})
    return answer


def told(error: ReviewError) -> dict[str, Any]:
    """What a program hears of a review that was not to be had."""
    review = error.review
    return {
        "problem": error.problem,
        "state": review and review.state,
        "decided_by": review and review.decided_by,
        "assignee": review and review.assignee,
    }


def _sign_in(request: Request, error: Exception) -> Response:
    if "hx-request" in request.headers:  # a part of a page cannot ask
        return Response(status_code=401, headers={"HX-Redirect": "/sign-in"})
    if request.method != "GET" or request.url.path == "/events":
        return refusal(request, 401, "You are signed out. Sign in, then try again.")
    there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    where = "/sign-in" if there == "/" else "/sign-in?" + urlencode({"next": there})
    return RedirectResponse(where, 303)


def _review(request: Request, error: Exception) -> Response:
    assert isinstance(error, ReviewError)
    return refusal(request, _STATUS.get(error.problem, 409), str(error), **told(error))


def _ledger(request: Request, error: Exception) -> Response:
    logger.warning("%s", error)
    message = "The ledger does not answer. Nothing was done by halves; it is tried again by itself."
    return refusal(request, 503, message, {"Retry-After": _AGAIN}, problem="ledger")


def _words(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Without what came: it may be anything, and long.
    wrong = [
        "the body is no JSON"
        if e["type"] == "json_invalid"
        else f"{'.'.join(str(p) for p in e['loc'][1:])}: {e['msg']}"
        for e in error.errors()
    ]
    return refusal(request, 422, "; ".join(wrong)[:1000], problem="invalid")


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    message = str(error.detail)
    if not isinstance(error, HTTPException):  # of the router itself, which says "Not Found" alone
        message = f"{message}: {request.method} {request.url.path!r:.200}"
        if request.url.path.startswith("/api/"):
            message += "; /api/v1/openapi.json says what there is"
    return refusal(request, error.status_code, message, error.headers)
