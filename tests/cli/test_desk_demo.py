"""The demo of the desk: real reviews, some answered, and what one decides is carried out."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from bayeslora_tool.desk.ledger import Ledger
from tests.conftest import failed
from tests.server_process import LOOPBACK, free_port, offline, running


@pytest.mark.slow
@LOOPBACK
def test_forty_reviews_wait_at_a_page_and_a_decision_is_carried_out(tmp_path: Path) -> None:
    port, place = free_port(), tmp_path / "desk.sqlite"
    command = [sys.executable, "-m", "bayeslora_tool", "desk", "demo", "--no-open"]
    command += ["--ledger", str(place), "--port", str(port)]
    with running(command, port, tmp_path, offline(tmp_path)) as log, Ledger(place) as ledger:
        reviews = ledger.reviews()
        assert len(reviews) == 40
        assert {one.graph for one in reviews} == {"requests", "films", "bank chat", "night line"}
        states = Counter(one.state for one in reviews)
        assert states["open"] >= 15
        assert states["claimed"] == 3
        assert states["applied"] >= 8
        assert {one.needed for one in reviews} == {1, 2}
        assert sum(one.votes == 2 and one.state == "open" for one in reviews) == 1  # they differ
        assert any(one.decided_by is None and one.state == "applied" for one in reviews)  # too late
        assert sum(one.audit for one in reviews) == 6
        assert any("<script>" in (one.text or "") for one in reviews)
        assert all(one.prediction and one.scored_by for one in reviews)
        assert ledger.verify() == []
        token = re.search(r"^ *lea +lead +- +(\S+)", log.read_text(), re.MULTILINE)
        assert token is not None
        address = f"http://127.0.0.1:{port}/api/v1"
        with httpx.Client(base_url=address, trust_env=False) as lea:
            who = {"name": "lea", "token": token[1]}
            secret = lea.post("/session", json=who).json()["secret"]
            lea.headers["Authorization"] = f"Bearer {secret}"
            mine = next(
                one
                for one in reviews
                if (one.graph, one.state, one.audit, one.needed) == ("requests", "open", False, 1)
            )
            path = f"/reviews/{mine.id}"
            answer = {"answer": {"type": "approve"}}
            assert lea.post(f"{path}/decision", json=answer).is_success
            ends = time.monotonic() + 20
            while lea.get(path).json()["state"] != "applied":
                assert time.monotonic() < ends
                time.sleep(0.2)


def test_a_ledger_that_has_something_in_it_is_left_alone(run: Any, tmp_path: Path) -> None:
    place = tmp_path / "desk.sqlite"
    with Ledger(place) as ledger:
        ledger.people.add("ann")
        head = ledger.head()
    assert failed(run("desk", "demo", "--no-open", "--ledger", str(place)), "is not empty")
    with Ledger(place) as ledger:
        assert ledger.head() == head
