"""A database that is full, locked, restarted or lost: a clear error, no half decision, and on."""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import start

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.store import LedgerError
from tests.desk.filed import APPROVE, REJECT, file, refused, steps
from tests.desk.postgres import Postgres
from tests.desk.scenes import Scene
from tests.graphs.desk import on

# As if there were no room for what is filed.
_REFUSES = {
    "sqlite": "CREATE TRIGGER full BEFORE INSERT ON reviews "
    "BEGIN SELECT RAISE(ABORT, 'no space left'); END",
    "postgresql": "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "RAISE 'no space left' USING ERRCODE = '53100'; END $$; "
    "CREATE TRIGGER full_ BEFORE INSERT ON reviews FOR EACH ROW EXECUTE FUNCTION refuse()",
}


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """As on a disk that has no more room: the kernel refuses what would be written past it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_nothing_is_decided_by_halves_and_later_it_is(tmp_path: Path) -> None:
    place = tmp_path / "desk.sqlite"
    ledger = Ledger(place, patience=0.5)
    reviews = [file(ledger, f"odd {i}") for i in range(3)]
    log = Path(f"{place}-wal")
    for review, room in zip(reviews, (0, 4000, 9000), strict=True):
        # Something is written each time, and not all of it.
        size = (log.stat().st_size if log.exists() else 0) + room
        with no_file_grows_beyond(size), pytest.raises(LedgerError, match="does not answer") as no:
            ledger.decide(review.id, APPROVE, "ann")
        assert "full" in str(no.value) or "I/O" in str(no.value)
        assert ledger.review(review.id) == review
        assert ledger.verify() == []
        assert ledger.decide(review.id, REJECT, "bob").decided_by == "bob"
        assert steps(ledger, review) == ["filed", "decided"]
    assert ledger.verify() == []


def test_a_locked_database_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    place = tmp_path / "desk.sqlite"
    ledger = Ledger(place, patience=0.3)
    review = file(ledger)
    blocker = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(LedgerError, match="database is locked"):
        ledger.decide(review.id, APPROVE, "ann")
    assert 0.25 < time.monotonic() - began < 8
    assert ledger.review(review.id) == review  # reading goes on
    blocker.execute("ROLLBACK")
    patient = Ledger(place, patience=20)
    blocker.execute("BEGIN IMMEDIATE")
    Timer(0.5, lambda: blocker.execute("ROLLBACK")).start()
    assert patient.decide(review.id, APPROVE, "ann").state == "decided"
    blocker.close()
    assert ledger.verify() == []


@pytest.mark.slow
def test_a_lock_in_postgres_is_waited_for_so_long_and_no_longer(postgres: Postgres) -> None:
    place = postgres.database()
    with Ledger(place, patience=20) as patient, Ledger(place, patience=0.4) as ledger:
        review = file(ledger)
        blocker = patient.store.engine.connect()
        blocker.exec_driver_sql("SELECT * FROM head FOR UPDATE")
        began = time.monotonic()
        with pytest.raises(LedgerError, match="lock timeout"):
            ledger.decide(review.id, APPROVE, "ann")
        assert 0.3 < time.monotonic() - began < 5
        assert ledger.review(review.id) == review  # reading goes on
        Timer(0.5, blocker.close).start()
        assert patient.decide(review.id, APPROVE, "ann").state == "decided"
        assert ledger.verify() == []


@pytest.mark.slow
def test_a_process_that_waits_on_all_its_connections_says_so(postgres: Postgres) -> None:
    with Ledger(postgres.database(), patience=0.3) as ledger:
        review = file(ledger)
        busy = [ledger.store.engine.connect() for _ in range(15)]
        with pytest.raises(LedgerError, match="does not answer"):
            ledger.review(review.id)
        for connection in busy:
            connection.close()
        assert ledger.review(review.id) == review


def test_the_log_of_a_failure_has_no_word_of_a_text(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(ledger)
    ledger.store.write(lambda c: c.exec_driver_sql(_REFUSES[ledger.store.kind]) and None)
    start(scene.graph, {"text": "odd zanzibar"}, on(1))
    assert "was not filed" in caplog.text
    assert "no space left" in caplog.text
    assert "zanzibar" not in caplog.text


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "desk.sqlite").write_bytes(b"no database at all, but long enough to be read" * 50)
    with pytest.raises(LedgerError, match=r"not a database.*see to that"):
        Ledger(tmp_path / "desk.sqlite", patience=0.3)


def test_what_was_through_when_the_line_was_lost_is_done_and_told_so(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ledger.store._once

    def twice(engine: Any, work: Any) -> Any:
        real(engine, work)
        return real(engine, work)

    monkeypatch.setattr(ledger.store, "_once", twice)
    one, other = file(ledger, "odd 1"), file(ledger, "odd 2")
    ledger.claim(one.id, "ann")
    assert ledger.release(one.id, "ann").state == "open"
    with refused("over"):
        ledger.release(one.id, "ann")
    assert ledger.decide(other.id, APPROVE, "ann", undo=10).state == "decided"
    assert ledger.undo(other.id, "ann").state == "claimed"
    assert ledger.withdraw(one.id).state == "withdrawn"
    assert steps(ledger, one)[-2:] == ["returned", "withdrawn"]
    name, secret = ledger.webhooks.add("https://example.com/")
    (hook,) = ledger.webhooks.all()
    assert hook.id == name
    assert secret.startswith("whsec_")
    ledger.webhooks.remove(name)
    assert ledger.webhooks.all() == []
    with pytest.raises(ValueError, match="no webhook"):
        ledger.webhooks.remove(name)
    assert ledger.verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("outage", ["restart", "crash", "lost connections"])
def test_decisions_go_on_over_outages_of_postgres(postgres: Postgres, outage: str) -> None:
    n, told = 25, {}
    with Ledger(postgres.database(), patience=30) as ledger:
        reviews = [file(ledger, f"odd {i}") for i in range(n)]
        over = False

        def decide() -> None:
            for review in reviews:
                told[review.id] = ledger.decide(review.id, APPROVE, "ann").answer
                time.sleep(0.04)

        def disturb() -> None:
            while not over:
                if outage == "lost connections":
                    postgres.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                    )
                    time.sleep(0.1)
                else:
                    postgres.stop("fast" if outage == "restart" else "immediate")
                    postgres.start()
                    time.sleep(0.3)

        disturber = Thread(target=disturb)
        disturber.start()
        try:
            decide()
        finally:
            over = True
            disturber.join()
        assert ledger.verify() == []
        decided = {review.id: review.answer for review in ledger.reviews("decided")}
    assert decided == told
    assert len(told) == n


@pytest.mark.slow
def test_a_postgres_that_stays_away_is_a_clear_error(postgres: Postgres) -> None:
    with Ledger(postgres.database(), patience=1) as ledger:
        review = file(ledger)
        postgres.stop()
        try:
            with pytest.raises(LedgerError, match="does not answer") as caught:
                ledger.decide(review.id, APPROVE, "ann")
        finally:
            postgres.start()
        assert "desk@" in str(caught.value)
        assert ledger.decide(review.id, APPROVE, "ann").state == "decided"
        assert ledger.verify() == []
