"""What one served desk has at hand, for each request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import cast

from fastapi import Request

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.roles import Person
from bayeslora_tool.policy import Policy
from bayeslora_tool.serving.desk.binding import Binding

Similar = Callable[[FiledReview, Person], Sequence[FiledReview]]
"""Finds settled reviews like one that somebody may read, the most alike first."""


@dataclass(frozen=True)
class Setting:
    """Of one app.

    Attributes:
        ledger: With the reviews, and the people.
        binding: Where it listens.
        policies: By their fingerprints.
        similar: Finds settled reviews like one; None: nothing does.
        seal: Makes tokens against forgery, for this process alone.
    """

    ledger: Ledger
    binding: Binding
    policies: Mapping[str, Policy]
    similar: Similar | None
    seal: bytes = field(default_factory=lambda: token_bytes(32), repr=False)


def setting_of(request: Request) -> Setting:
    """Of the app that a request is for."""
    return cast(Setting, request.app.state.setting)
