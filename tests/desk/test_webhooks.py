"""Who is to hear of reviews does, signed, over outages and kills, and no word of theirs."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from bayeslora_tool.desk import sending
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.outbox import announce_due, any_due
from bayeslora_tool.desk.routing import Route
from bayeslora_tool.desk.seal import new_key
from bayeslora_tool.desk.tables import OUTBOX
from tests.desk.children import Child
from tests.desk.filed import APPROVE, file, hidden, meddle, question
from tests.server_process import LOOPBACK, free_port

pytestmark = LOOPBACK


class Receiver:
    """A real HTTP server that answers as it is told, and remembers what came."""

    def __init__(self, port: int = 0) -> None:
        self.answers: list[int] = []  # the next ones; then 204
        self.slow = 0.0
        self.came: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.came.append(({k.lower(): v for k, v in self.headers.items()}, body))
                time.sleep(receiver.slow)
                status = receiver.answers.pop(0) if receiver.answers else 204
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", f"{receiver.url}/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.came]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(port)
    try:
        yield receiver
    finally:
        receiver.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "FIRST_REST", 0.02)


def send_all(ledger: Ledger, n: int, seconds: float = 10) -> None:
    """Send until nothing is to be sent, or so many were tried."""
    ends = time.monotonic() + seconds
    done = 0
    while done < n:
        done += len(ledger.webhooks.send())
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_filed_review_is_told_and_signed_as_standard_webhooks_are(
    ledger: Ledger, receiver: Receiver
) -> None:
    _, secret = ledger.webhooks.add(receiver.url, page="https://desk.example/")
    review = file(ledger, due=3600)
    (sent,) = ledger.webhooks.send()
    assert (sent.review, sent.problem) == (review.id, None)
    ((headers, body),) = receiver.came
    signed = headers["webhook-id"].encode() + b"." + headers["webhook-timestamp"].encode()
    key = b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, signed + b"." + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + b64encode(mac).decode()
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["content-type"] == "application/json"
    told = json.loads(body)
    assert told["type"] == "review.filed"
    data = told["data"]
    assert (data["review"], data["tool"], data["label"], data["confidence"]) == (
        review.id, "act_on_label", "yes", review.confidence
    )  # fmt: skip
    assert data["due"] == review.due.isoformat()  # type: ignore[union-attr]
    assert data["url"] == f"https://desk.example/reviews/{review.id}"
    assert review.id[:8] in told["text"]  # what Slack shows
    assert ledger.webhooks.send() == []


def test_no_word_of_theirs_is_told_unless_asked_for(ledger: Ledger, receiver: Receiver) -> None:
    ledger.webhooks.add(receiver.url)
    hidden(ledger, "odd zanzibar")
    ledger.webhooks.send()
    assert b"zanzibar" not in receiver.came[0][1]
    ledger.webhooks.add(receiver.url, texts=True)
    hidden(ledger, "odd zanzibar <!channel> \x1b[2J & so on", 1)
    ledger.webhooks.send()
    (told,) = [one for one in receiver.bodies() if "text" in one["data"]]
    assert told["data"]["text"] == "odd zanzibar <!channel> \x1b[2J & so on"
    assert "zanzibar &lt;!channel&gt; \\x1b[2J &amp; so on" in told["text"]


def test_each_hears_what_it_is_to_hear_of(
    ledger: Ledger, receiver: Receiver, later: Callable[[float], None]
) -> None:
    ledger.webhooks.add(receiver.url, on=["due-soon", "expired"], soon=30)
    far, soon = file(ledger, "odd far", due=600), file(ledger, "odd soon", due=20)
    ledger.claim(soon.id, "ann")
    for _ in range(3):  # once for each time it is due
        ledger.webhooks.send()
    assert [(one["type"], one["data"]["review"]) for one in receiver.bodies()] == [
        ("review.due-soon", soon.id)
    ]
    later(25)
    ledger.keep_time()
    ledger.webhooks.send()
    assert [one["type"] for one in receiver.bodies()] == ["review.due-soon", "review.expired"]
    assert ledger.review(far.id).state == "open"
    decided = file(ledger, "odd decided", due=20)
    ledger.decide(decided.id, APPROVE, "ann")
    assert ledger.webhooks.send() == []


def test_the_next_group_hears_of_what_goes_on_to_it(
    ledger: Ledger, receiver: Receiver, later: Callable[[float], None]
) -> None:
    ledger.webhooks.add(receiver.url, on=["filed", "due-soon"], soon=50)
    route = Route(group="cards", next_group="leads", due=100)
    ledger.reconcile([question()], routes=[route])
    for seconds in (60, 45, 60):
        ledger.webhooks.send()
        later(seconds)
        ledger.keep_time()
    ledger.webhooks.send()
    assert [(one["type"], one["data"]["group"]) for one in receiver.bodies()] == [
        ("review.filed", "cards"), ("review.due-soon", "cards"),
        ("review.filed", "leads"), ("review.due-soon", "leads"),
    ]  # fmt: skip


def test_to_look_for_what_is_due_soon_again_costs_few_queries(ledger: Ledger) -> None:
    ledger.webhooks.add("https://example.com/", on=["due-soon"])
    ledger.reconcile([question(f"odd {i}") for i in range(40)], due=600)
    ledger.store.write(lambda c: announce_due(c, ledger.store.now(c)))
    ledger.reconcile([question("odd new")], due=600)
    asked: list[str] = []
    event.listen(ledger.store.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    assert ledger.store.read(lambda c: any_due(c, ledger.store.now(c)))
    ledger.store.write(lambda c: announce_due(c, ledger.store.now(c)))
    assert not ledger.store.read(lambda c: any_due(c, ledger.store.now(c)))
    assert len(asked) < 25
    assert ledger.webhooks.all()[0].waiting == 41


def test_what_was_filed_before_is_not_told(ledger: Ledger, receiver: Receiver) -> None:
    file(ledger, "odd before")
    ledger.webhooks.add(receiver.url)
    asked = file(ledger, "odd after")
    assert [one.review for one in ledger.webhooks.send()] == [asked.id]


def test_after_errors_it_is_tried_again_under_the_same_id(
    ledger: Ledger, receiver: Receiver
) -> None:
    ledger.webhooks.add(receiver.url)
    file(ledger)
    receiver.answers = [500, 429, 301, 404]
    send_all(ledger, 5)
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert len({body for _, body in receiver.came}) == 1
    assert len(receiver.came) == 5  # the redirect was not followed
    (hook,) = ledger.webhooks.all()
    assert (hook.waiting, hook.sent, hook.dead) == (0, 1, ())


def test_pauses_between_tries_grow(
    ledger: Ledger,
    receiver: Receiver,
    later: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sending, "FIRST_REST", 100)
    monkeypatch.setattr(sending, "LONGEST_REST", 1000)
    ledger.webhooks.add(receiver.url)
    file(ledger)
    receiver.answers = [500] * 6
    for rest in (100, 200, 400, 800, 1000, 1000):
        assert len(ledger.webhooks.send()) == 1
        waits = sa.select(OUTBOX.c.next)
        left = ledger.store.read(lambda c, q=waits: c.execute(q).scalar_one() - ledger.store.now(c))  # type: ignore[misc]
        assert 0.5 * rest - 10 < left / 1000 <= 1.5 * rest
        assert ledger.webhooks.send() == []
        later(left / 1000 + 0.01)
    assert ledger.webhooks.send()[0].problem is None


def test_who_was_down_hears_it_when_they_are_up(ledger: Ledger) -> None:
    port = free_port()
    ledger.webhooks.add(f"http://127.0.0.1:{port}/hook")
    file(ledger)
    sent, *_ = ledger.webhooks.send()
    assert "ConnectError" in str(sent.problem)
    with receiving(port) as receiver:
        send_all(ledger, 1)
        assert len(receiver.came) == 1


def test_who_never_takes_it_leaves_a_dead_letter_that_can_be_tried_again(
    ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MOST_TRIES", 3)
    name, _ = ledger.webhooks.add(receiver.url)
    review = file(ledger)
    receiver.answers = [503] * 3
    send_all(ledger, 3)
    time.sleep(0.2)
    assert ledger.webhooks.send() == []
    (hook,) = ledger.webhooks.all()
    ((letter),) = hook.dead
    assert (letter.review, letter.kind, letter.tries) == (review.id, "filed", 3)
    assert letter.problem == "it answered 503"
    assert ledger.webhooks.retry(name) == 1
    (sent,) = ledger.webhooks.send()
    assert (sent.message, sent.problem) == (letter.id, None)
    assert ledger.webhooks.all()[0].dead == ()


def test_who_takes_too_long_is_not_waited_for(
    ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SECONDS", 0.3)
    monkeypatch.setattr(sending, "FIRST_REST", 60)
    ledger.webhooks.add(receiver.url)
    file(ledger)
    receiver.slow = 30
    began = time.monotonic()
    (sent,) = ledger.webhooks.send()
    assert sent.problem == "no answer within 0.3 s"
    assert time.monotonic() - began < 20


def test_several_who_send_share_the_work(ledger: Ledger, receiver: Receiver) -> None:
    ledger.webhooks.add(receiver.url)
    for i in range(12):
        file(ledger, f"odd {i}")
    receiver.slow = 0.05
    senders = [Thread(target=ledger.webhooks.send) for _ in range(3)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(20)
    ids = [headers["webhook-id"] for headers, _ in receiver.came]
    assert len(ids) == len(set(ids)) == 12


def test_a_sender_that_is_killed_loses_nothing(
    ledger: Ledger, receiver: Receiver, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "LEASE", 0.5)
    ledger.webhooks.add(receiver.url)
    reviews = {file(ledger, f"odd {i}").id for i in range(6)}
    receiver.slow = 0.1

    def send(ready: Any) -> None:
        with Ledger(place) as own:
            ready()
            own.webhooks.send_until(Event(), every=0.01)

    for i in range(5):
        child = Child(send)
        child.wait_until_ready()
        time.sleep(0.05 + 0.03 * i)
        child.kill()
    receiver.slow = 0
    ends = time.monotonic() + 20
    while ledger.webhooks.all()[0].waiting:
        ledger.webhooks.send()
        assert time.monotonic() < ends
        time.sleep(0.05)
    told = {body["data"]["review"]: h["webhook-id"] for (h, _), body in
            zip(receiver.came, receiver.bodies(), strict=True)}  # fmt: skip
    assert told.keys() == reviews
    assert {h["webhook-id"] for h, _ in receiver.came} == set(told.values())  # one id for each


def test_what_is_told_is_written_with_the_event_or_not_at_all(
    ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bayeslora_tool.desk import outbox

    ledger.webhooks.add(receiver.url)

    def full(*_: Any) -> str:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_body", full)
        with pytest.raises(OSError, match="disk full"):
            file(ledger)
    assert ledger.reviews() == []
    assert ledger.verify() == []
    file(ledger)
    assert len(ledger.webhooks.send()) == 1


@pytest.mark.parametrize(
    "url",
    ["http://example.com/x", "ftp://example.com", "https://", "https://me:word@example.com/", "x",
     "https://exa mple.com", "http://127.0.0.1.example.com/", "https://[::1"],
)  # fmt: skip
def test_an_address_is_https_or_on_this_machine(ledger: Ledger, url: str) -> None:
    with pytest.raises(ValueError, match="`url` must be an address"):
        ledger.webhooks.add(url)
    for fine in ("https://example.com/x", "http://localhost:8000", "http://[::1]:1/x"):
        ledger.webhooks.add(fine)
    assert len(ledger.webhooks.all()) == 3


@pytest.mark.parametrize(
    ("options", "why"),
    [({"on": []}, "`on`"), ({"on": ["new"]}, "new"), ({"soon": 0}, "`soon`"),
     ({"soon": float("nan")}, "`soon`"), ({"page": "desk"}, "`page`")],
)  # fmt: skip
def test_a_webhook_of_nonsense_is_refused(ledger: Ledger, options: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ledger.webhooks.add("https://example.com", **options)
    with pytest.raises(ValueError, match="no webhook 'x'"):
        ledger.webhooks.remove("x")


def test_what_was_sent_long_ago_is_forgotten(
    ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.webhooks.add(receiver.url)
    for i in range(3):
        file(ledger, f"odd {i}")
        ledger.webhooks.send()
    assert ledger.webhooks.all()[0].sent == 3
    monkeypatch.setattr(sending, "_KEPT", -1)
    file(ledger, "odd 3")
    ledger.webhooks.send()
    assert ledger.webhooks.all()[0].sent <= 1


def test_a_removed_webhook_hears_no_more(ledger: Ledger, receiver: Receiver) -> None:
    name, _ = ledger.webhooks.add(receiver.url)
    file(ledger, "odd 1")
    ledger.webhooks.remove(name)
    for unknown in (ledger.webhooks.remove, ledger.webhooks.retry):
        with pytest.raises(ValueError, match=f"no webhook '{name}'"):
            unknown(name)
    file(ledger, "odd 2")
    assert ledger.webhooks.send() == []
    assert ledger.webhooks.all() == []


def test_address_secret_and_message_are_closed_with_the_ledgers_key(
    tmp_path: Path, receiver: Receiver
) -> None:
    place = tmp_path / "desk.sqlite"
    with Ledger(place, key=new_key()) as ledger:
        _, secret = ledger.webhooks.add(receiver.url, texts=True)
        hidden(ledger, "odd zanzibar")
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        for word in (secret, receiver.url, "zanzibar"):
            assert word.encode() not in written
        assert ledger.webhooks.send()[0].problem is None
    assert b"zanzibar" in receiver.came[0][1]


def test_no_log_tells_an_address(
    ledger: Ledger, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    import httpx

    with caplog.at_level("INFO"):
        httpx.post(f"{receiver.url}/others", content="{}", trust_env=False)
        assert "/others" in caplog.text  # so one would see it
        ledger.webhooks.add(f"{receiver.url}/secret")
        file(ledger)
        assert ledger.webhooks.send()[0].problem is None
    assert "/secret" not in caplog.text


def test_what_was_sent_or_is_erased_keeps_no_message(ledger: Ledger, receiver: Receiver) -> None:
    ledger.webhooks.add(receiver.url, texts=True)
    review = hidden(ledger, "odd zanzibar")
    receiver.answers = [500]
    ledger.webhooks.send()
    ledger.withdraw(review.id)
    ledger.erase(0)
    time.sleep(0.1)
    assert ledger.webhooks.send() == []
    hidden(ledger, "odd too", 1)
    ledger.webhooks.send()
    meddle(ledger, "UPDATE outbox SET tries = 7 WHERE body IS NULL")


def test_a_worker_tells_as_it_goes(ledger: Ledger, receiver: Receiver) -> None:
    from tests.desk.scenes import Scene

    ledger.webhooks.add(receiver.url)
    receiver.slow = 0.3
    scene, stop = Scene(ledger), Event()
    worker = Thread(target=scene.desk.work, args=(stop,), kwargs={"every": 0.05})
    worker.start()
    name = scene.ask()
    ends = time.monotonic() + 10
    while not receiver.came and time.monotonic() < ends:
        time.sleep(0.02)
    stop.set()
    worker.join(10)
    assert [one["data"]["review"] for one in receiver.bodies()] == [name]
    # It has waited for the message under way, and left nobody with the ledger.
    assert ledger.webhooks.all()[0].sent == 1
    assert "desk webhooks" not in [thread.name for thread in threading.enumerate()]
