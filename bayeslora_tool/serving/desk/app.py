"""The desk as an ASGI application: its page, its REST interface, and what guards both."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

try:
    from fastapi import FastAPI
    from starlette.staticfiles import StaticFiles

    from bayeslora_tool.desk.ledger import Ledger
    from bayeslora_tool.policy import Policy, policy_fingerprint
    from bayeslora_tool.serving.desk import acting, counting, reading, rest
    from bayeslora_tool.serving.desk.binding import Binding
    from bayeslora_tool.serving.desk.guard import Guard
    from bayeslora_tool.serving.desk.refusals import add_refusals
    from bayeslora_tool.serving.desk.setting import Setting, Similar
    from bayeslora_tool.serving.desk.streams import Heads
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[desk]"') from None

_BUNDLED = ("default", "sentiment", "intents", "cautious")
_ABOUT = (
    "What waits for people, and their answers, by the same rules as on the page. "
    "Begin with `POST /api/v1/session`."
)


def desk_app(
    ledger: Ledger,
    *,
    binding: Binding | None = None,
    policies: Iterable[Policy] = (),
    similar: Similar | None = None,
) -> FastAPI:
    """The desk of a ledger, for an ASGI server; :func:`serve_desk` is one.

    Args:
        ledger: With the reviews and the people; stays the caller's to close.
        binding: Where it listens: which hosts requests may name, and whether by TLS or a proxy.
        policies: Those that reviews may come from, beside the bundled ones, so that a review can
            say what would have been needed.
        similar: Finds settled reviews like one; called in a thread.
    """
    setting = Setting(
        ledger=ledger,
        binding=binding or Binding(),
        policies=_by_fingerprint(policies),
        similar=similar,
    )
    app = FastAPI(
        title="Review desk",
        version=version("bayeslora-tool"),
        description=_ABOUT,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.setting = setting
    app.state.heads = Heads(lambda: ledger.head()[0])
    for room in (reading, acting, counting, rest):
        app.include_router(room.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    add_refusals(app)
    app.add_middleware(Guard, hosts=setting.binding.hosts, proxy=setting.binding.proxy)
    return app


def _by_fingerprint(policies: Iterable[Policy]) -> dict[str, Policy]:
    known = [*(Policy.from_preset(name) for name in _BUNDLED), *policies]
    return {policy_fingerprint(policy): policy for policy in known}
