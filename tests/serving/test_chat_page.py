"""The served chat in a browser: agent-chat-ui as npm has it, against a real ``langgraph dev``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.server_process import LOOPBACK, free_port, offline, running

APP = ROOT / ".venv" / "chat-app"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]
DOUBTFUL = "they took my wallet so block it all and send 50 to Ada"

pytestmark = [
    pytest.mark.slow,
    LOOPBACK,
    pytest.mark.skipif(not (APP / "index.html").exists(), reason="needs `make chat-app` (npm)"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the app, which knows the server's address and the graph."""
    pytest.importorskip("langgraph_api", reason='needs pip install "bayeslora-tool[server]"')
    folder = tmp_path_factory.mktemp("servers")
    port, site = free_port(), free_port()
    serve = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
    serve += ["--port", str(port), "--config", str(ROOT / "langgraph.json")]
    show = [sys.executable, "-m", "http.server", str(site), "--bind", "127.0.0.1"]
    show += ["--directory", str(APP)]
    env = offline(folder)
    for name in ("graphs", "pages"):
        (folder / name).mkdir()
    with (
        running(serve, port, folder / "graphs", env),
        running(show, site, folder / "pages", env),
    ):
        yield f"http://127.0.0.1:{site}/?apiUrl=http://127.0.0.1:{port}&assistantId=chat"


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Any]:
    """The chat, open in a browser."""
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1280, "height": 1400})
        opened.set_default_timeout(240_000)  # the first message loads the model
        opened.goto(address)
        yield opened
        opened.screenshot(path=tmp_path / "end.png")
        browser.close()


def say(page: Any, words: str) -> None:
    page.get_by_placeholder("Type your message...").fill(words)
    page.get_by_role("button", name="Send", exact=True).click()


def review(page: Any) -> Any:
    """The form that asks about both calls."""
    form = page.get_by_text("freeze_account, transfer_money")
    form.wait_for()
    assert page.get_by_text("Decision 1").is_visible()
    assert page.get_by_text("Decision 2").is_visible()
    return form


def decision(page: Any, number: int) -> Any:
    return page.get_by_text(f"Decision {number}", exact=True).locator("..").get_by_role("textbox")


def test_two_doubtful_calls_are_shown_in_one_form_and_settled_one_by_one(
    page: Any, tmp_path: Path
) -> None:
    say(page, DOUBTFUL)
    review(page)
    page.screenshot(path=tmp_path / "asked.png")
    assert page.get_by_text("The account is frozen").count() == 0
    decision(page, 2).fill("reject")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("The account is frozen").last.wait_for()
    page.screenshot(path=tmp_path / "settled.png")
    assert page.get_by_text("A reviewer rejected this call of").count() > 0
    assert page.get_by_text("50 sent to Ada").count() == 0
    assert page.get_by_text("freeze_account, transfer_money").count() == 0


def test_a_message_over_the_review_does_not_discard_it(page: Any, tmp_path: Path) -> None:
    say(page, DOUBTFUL)
    review(page)
    say(page, "what is my balance")
    page.get_by_text("what is my balance").first.wait_for(state="detached")  # until its turn
    review(page)
    page.get_by_role("button", name="Description").click()
    page.get_by_text("Since this was asked, the user wrote").first.wait_for()
    page.screenshot(path=tmp_path / "again.png")
    page.reload()
    review(page)
    page.get_by_role("button", name="Ignore").click()
    page.get_by_text("The balance is 1204.").last.wait_for()
    page.screenshot(path=tmp_path / "later.png")
    assert page.get_by_text("The account is frozen").count() == 0
    assert page.get_by_text("50 sent to Ada").count() == 0
