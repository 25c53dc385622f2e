"""Reviews without a graph, and what is wrong with a ledger whose rows somebody changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.desk.review import FiledReview, Question
from bayeslora_tool.policy import Policy, policy_fingerprint
from bayeslora_tool.review.answer_types import answer_type
from bayeslora_tool.review.requests import review_request
from tests.fakes import by_words

POLICY = Policy(tau_conf=0.8, tau_var=0.01)
APPROVE = {"type": "approve"}
REJECT = {"type": "reject", "message": "no"}
Later = Callable[[float], None]
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def question(text: str = "odd", **changes: Any) -> Question:
    """What the escalation graph would ask about a text."""
    from pydantic import TypeAdapter

    prediction = by_words(text).to_dict()
    request = review_request(
        text=text, prediction=prediction, reason="unsure", labels=("yes", "no")
    )
    values: dict[str, Any] = {
        "graph": "g",
        "thread": text,
        "interrupt": f"i {text}",
        "request": request,
        "schema": TypeAdapter(answer_type("review", request)).json_schema(),
        "tool": "act_on_label",
        "key": f"key {text}",
        "text": text,
        "reason": "unsure",
        "conversation": [{"by": "user", "text": text}],
        "prediction": prediction,
        "policy": policy_fingerprint(POLICY),
    }
    return Question(**values | changes)


def file(ledger: Ledger, text: str = "odd", **options: Any) -> FiledReview:
    asked = question(text)
    ledger.reconcile([asked], **options)
    return ledger.review(asked.id)


def hidden(ledger: Ledger, text: str, number: int = 0) -> FiledReview:
    """A review whose text stands in it alone, and not in its thread's name."""
    asked = question(text, thread=f"t {number}", interrupt="i", key=f"k {number}")
    ledger.reconcile([asked])
    return ledger.review(asked.id)


@contextmanager
def log_kept(place: Path) -> Iterator[None]:
    """While somebody has the file open, SQLite leaves its log there."""
    db = sqlite3.connect(place)
    db.execute("SELECT count(*) FROM reviews").fetchall()
    yield
    assert Path(f"{place}-wal").exists()
    db.close()


def steps(ledger: Ledger, review: FiledReview) -> list[str]:
    return [event["step"] for event in ledger.events(review.id)]


@contextmanager
def refused(problem: str) -> Iterator[Any]:
    with pytest.raises(ReviewError) as caught:
        yield caught
    assert caught.value.problem == problem


def meddle(ledger: Ledger, statement: str, **values: Any) -> None:
    """Change the tables behind the ledger's back."""

    def work(c: Connection) -> None:
        done = c.execute(sa.text(statement), values)
        assert done.rowcount >= 1, "that changed nothing"

    ledger.store.write(work)
