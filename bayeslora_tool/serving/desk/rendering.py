"""Pages from templates. Whatever a template shows goes through one filter: texts are data.

What cannot be seen is written out, as everywhere (``quoting.py``), and all is escaped for HTML.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bayeslora_tool.desk.span import span
from bayeslora_tool.quoting import one_line, visible
from bayeslora_tool.serving.desk.identity import Visitor
from bayeslora_tool.serving.desk.searching import kept

NAVIGATION = [
    ("/", "Inbox"),
    ("/history", "History"),
    ("/people", "People"),
    ("/statistics", "Statistics"),
]
"""Pages that each page links to."""

LONGEST = 4000  # characters of a text on a page


def shown(value: Any) -> Any:
    """What stands on a page for a value: the filter that every template's every output passes."""
    if value is None:
        return ""
    if isinstance(value, Markup):
        return value
    return visible(value if isinstance(value, str) else str(value))


def page(
    request: Request, template: str, who: Visitor | None = None, status: int = 200, **content: Any
) -> HTMLResponse:
    """A page of the desk.

    Args:
        request: That it answers.
        template: Its file.
        who: Is signed in.
        status: Of HTTP.
        content: For the template.
    """
    here = request.url.path
    text = _TEMPLATES.get_template(template).render(who=who, here=here, now=_now(), **content)
    return HTMLResponse(text, status)


def _since(when: datetime, now: datetime) -> str:
    return span(max(0.0, (now - when).total_seconds()))


def _until(when: datetime, now: datetime) -> str:
    left = (when - now).total_seconds()
    return f"in {span(left)}" if left > 0 else f"{span(-left)} ago"


def _now() -> datetime:
    return datetime.now(UTC)


_TEMPLATES = Environment(
    loader=PackageLoader("bayeslora_tool.serving.desk"),
    autoescape=True,
    finalize=shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "line": lambda text, most=None: one_line(str(text), most),
    "since": _since,
    "until": _until,
    "clock": lambda when: f"{when:%Y-%m-%d %H:%M:%S} UTC",
    "moment": lambda at: f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC",
    "unix": lambda text: text.replace("\r\n", "\n"),
    "path": lambda name: quote(name, safe="", errors="replace"),
    "query": lambda words: urlencode(words, errors="replace"),
    "kept": kept,
}
_TEMPLATES.globals |= {
    "LONGEST": LONGEST,
    "navigation": NAVIGATION,
    "all_allow": lambda calls, kind: all(kind in action.allowed for action, _, _ in calls),
}
