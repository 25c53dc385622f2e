"""Which reviews somebody asks for, by the words of an address; nobody sees more than they may."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qsl, urlencode

from fastapi import HTTPException, Query

from bayeslora_tool.desk.inbox import Filter, Inbox
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.roles import Person
from bayeslora_tool.desk.states import STATES, State

Order = Literal["urgency", "doubt", "age", "recent"]
WAITING: tuple[State, ...] = ("open", "claimed")
SETTLED: tuple[State, ...] = ("decided", "applied", "expired", "withdrawn")
_MOST = 200  # reviews at once
_NAMED = 200  # characters


class Search(NamedTuple):
    """What an address asks for; words as they came."""

    state: list[State]
    group: str
    graph: str
    tool: str
    label: str
    by: str
    mine: bool
    audit: bool | None
    q: str
    order: Order
    after: str | None
    limit: int

    def filter(self, person: Person, *default: State) -> Filter:
        """As the ledger takes it.

        Args:
            person: Who asks: of groups that are not theirs they see nothing.
            default: States, where the address names none; none given: any.
        """
        own = None if person.role in ("lead", "auditor") else person.groups
        groups = frozenset({self.group}) if self.group else None
        if own is not None:
            if groups is not None and not groups <= own:
                raise HTTPException(403, f"you are not of the group {self.group!r:.60}")
            groups = own if groups is None else groups
        return Filter(
            states=tuple(self.state or default),
            groups=groups,
            graph=self.graph or None,
            tool=self.tool or None,
            label=self.label or None,
            assignee=person.name if self.mine else None,
            decided_by=self.by or None,
            audit=self.audit,
            text=self.q or None,
        )

    def address(self, **changes: Any) -> str:
        """The words again, with changes, for a link."""
        words = self._asdict() | {"after": None} | changes
        if words["limit"] == _LIMIT:
            words["limit"] = None
        if words["order"] == "urgency":
            words["order"] = None
        if words["audit"] is not None:
            words["audit"] = str(words["audit"]).lower()
        words["mine"] = "true" if words["mine"] else None
        kept = {key: value for key, value in words.items() if value}
        return urlencode(kept, doseq=True, errors="replace")


def find(
    ledger: Ledger, person: Person, asked: Search, *default: State, order: Order | None = None
) -> Inbox:
    """The reviews that an address asks for, as far as somebody may read them.

    Args:
        ledger: That has them.
        person: Who asks.
        asked: By the address.
        default: States, where it names none; none given: any.
        order: In place of the address's.
    """
    try:
        wanted = asked.filter(person, *default)
        return ledger.inbox(
            wanted, order=order or asked.order, after=asked.after, limit=asked.limit
        )
    except ValueError as error:  # words that no ledger has, or `after` of another list
        raise HTTPException(422, str(error)) from None


def count(ledger: Ledger, person: Person, asked: Search) -> dict[State, int]:
    """How many there are in each state, as far as somebody may read them."""
    try:
        return ledger.counts(asked._replace(state=[]).filter(person))
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


def kept(address: str, **more: str) -> str:
    """The words of an inbox's address that are known, and more."""
    words = [(key, value) for key, value in parse_qsl(address) if key in _WORDS]
    return urlencode([*words, *more.items()], errors="replace")


_LIMIT = 50
_WORDS = ("state", "group", "graph", "tool", "label", "mine", "audit", "q", "order")
Words = Annotated[str, Query(max_length=_NAMED)]


def search(
    state: Annotated[list[str], Query(description="By default those that wait.")] = [],  # noqa: B006
    group: Words = "",
    graph: Words = "",
    tool: Words = "",
    label: Annotated[str, Query(max_length=_NAMED, description="Of the model.")] = "",
    by: Annotated[str, Query(max_length=_NAMED, description="Who decided.")] = "",
    mine: Annotated[bool, Query(description="Claimed by you.")] = False,
    audit: Annotated[str, Query(description="true: audits alone, false: none of them.")] = "",
    q: Annotated[str, Query(max_length=_NAMED, description="Words of the text.")] = "",
    order: Annotated[Order, Query(description="What comes first.")] = "urgency",
    after: Annotated[str, Query(max_length=1000, description="`next` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=_MOST)] = _LIMIT,
) -> Search:
    """What an address asks for; an empty word asks for nothing."""
    states = [one for one in state if one]
    for one in states:
        if one not in STATES:
            raise HTTPException(422, f"`state` (={one!r:.40}) must be one of {', '.join(STATES)}")
    if audit not in ("", "true", "false"):
        raise HTTPException(422, f"`audit` (={audit!r:.40}) must be true or false")
    return Search(
        state=[one for one in get_args(State) if one in states],
        group=group,
        graph=graph,
        tool=tool,
        label=label,
        by=by,
        mine=mine,
        audit={"": None, "true": True, "false": False}[audit],
        q=q,
        order=order,
        after=after or None,
        limit=limit,
    )
