"""List reviews, and show one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from bayeslora_tool.cli.desk.opening import LEDGER, LedgerOption, NameArgument, opened
from bayeslora_tool.cli.terminal import err, out, write
from bayeslora_tool.desk.span import span
from bayeslora_tool.quoting import json_line, one_line, visible

if TYPE_CHECKING:
    from bayeslora_tool.desk import FiledReview, Filter, Ledger

_COLOURS = {
    "open": "yellow", "claimed": "cyan", "decided": "blue",
    "applied": "green", "expired": "red", "withdrawn": "dim",
}  # fmt: skip


def list_reviews(
    ledger: LedgerOption = LEDGER,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            "-s",
            help="open, claimed, decided, applied, expired or withdrawn; may come several times. "
            "Default: open and claimed.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="In every state.")] = False,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", "-g", help="For that group or for everybody; may come again."),
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="With that in what was scored, asked or answered.")
    ] = None,
    order: Annotated[
        str,
        typer.Option(
            help="urgency: by priority, then by when they are due, then by age; doubt: the least "
            "confidence first; age: the oldest first; recent: the newest first."
        ),
    ] = "urgency",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
) -> None:
    """List reviews, the most urgent first.

    Examples: bayeslora desk list --group cards --order doubt;
    bayeslora desk list --all --search "stolen card" -n 200
    """
    with opened(ledger) as found:
        from bayeslora_tool.desk import Filter

        states: Any = [] if everything else state or ["open", "claimed"]
        wanted = Filter(states=states, groups=frozenset(group) if group else None, text=search)
        reviews, more = _first(found, wanted, order, limit)
        table = Table("review", "state", "for", "age", "due", "tool", "label", "text", box=None)
        table.columns[-1].overflow, table.columns[-1].no_wrap = "ellipsis", True
        # However narrow: what one types, and what one decides by.
        for column, width in zip(table.columns, (8, 7, 3, 5, 5, 6, 10), strict=False):
            column.min_width, column.no_wrap, column.overflow = width, True, "ellipsis"
        for review in reviews:
            label = review.label
            if label is not None and review.confidence is not None:
                label = f"{label} ({review.confidence:.2f})"
            table.add_row(
                review.id[:8],
                Text(_state(review), _COLOURS[review.state]),
                Text(one_line(review.group or "-", 20)),
                span((datetime.now(UTC) - review.created).total_seconds()),
                span((review.due - datetime.now(UTC)).total_seconds()) if review.due else "-",
                Text(one_line(review.tool, 40)),
                Text(one_line(label or "-", 40)),
                Text(one_line(review.text or review.reason or "", 200)),
            )
        out.print(table)
        for review in reviews:
            if review.problem is not None:
                err.print(f"{review.id[:8]} could not be carried out:", end=" ", style="red")
                err.print(one_line(review.problem), markup=False, highlight=False)
        if more:
            err.print(f"more than {limit}; --limit shows others")
        if not reviews:
            err.print("no review is " + (" or ".join(states) or "there"))


def show(
    name: NameArgument,
    ledger: LedgerOption = LEDGER,
    ag_ui: Annotated[
        bool, typer.Option("--ag-ui", help="As one of AG-UI's interrupts, in JSON.")
    ] = False,
) -> None:
    """Show one review: what is asked, why, what may be answered, and what happened so far."""
    with opened(ledger) as found:
        from bayeslora_tool.desk.refusal import changed
        from bayeslora_tool.review.answers import actions
        from bayeslora_tool.review.requests import REVIEW_ACTION

        review = found.review(name)
        if review.erased_at is None and review.digest != review.shown:
            raise changed(review)
        if ag_ui:
            write(json_line(review.to_ag_ui()) + "\n")
            return
        _line("review", review.id)
        _line("graph, thread", f"{review.graph}, {review.thread}")
        _line("state", _state(review))
        if review.group is not None:
            then = f", then {review.next_group}" if review.next_group else ""
            _line("for", f"{review.group}{then}")
        if review.erased_at is not None:
            _line("erased", f"{review.erased_at:%Y-%m-%d %H:%M:%S} UTC; it was about {review.tool}")
            _line("decided", review.decision or "-")
        for action in actions(review.request) if review.request else ():
            args = "" if action.name == REVIEW_ACTION else f" {json_line(dict(action.args))}"
            _line("asks about", f"{action.name}{args}")
            _line("may be", ", ".join(action.allowed))
        for shown in _described(review):
            out.print(visible(shown), markup=False, highlight=False, soft_wrap=True)
        for turn in review.conversation if len(review.conversation) > 1 else ():
            _line(f"{one_line(turn['by'], 40)} said", turn["text"])
        if review.policy is not None:
            _line("policy", review.policy)
        if review.answer is not None:
            _line("answer", json_line(review.answer))
        for vote in found.votes(review.id):
            _line(f"answer of {one_line(vote.by, 40)}", json_line(vote.answer))
        if review.problem is not None:
            _line("could not be carried out", review.problem)
        for event in found.events(review.id):
            at = datetime.fromtimestamp(event["at"] / 1000, UTC)
            _line(f"{at:%Y-%m-%d %H:%M:%S} UTC", f"{event['step']} by {event['by']}")


def _first(
    ledger: Ledger, wanted: Filter, order: Any, limit: int
) -> tuple[list[FiledReview], bool]:
    """So many reviews, and whether there are more."""
    found: list[FiledReview] = []
    after = None
    while True:
        page = ledger.inbox(wanted, order=order, after=after, limit=min(limit - len(found), 1000))
        found += page.reviews
        after = page.next
        if after is None or len(found) == limit:
            return found, after is not None


def _described(review: FiledReview) -> list[str]:
    requests = review.request.get("action_requests", [review.request])
    return [str(request.get("description", "")) for request in requests]


def _state(review: FiledReview) -> str:
    who = review.assignee or review.decided_by
    if who is None and review.votes:
        who = f"answered by {review.votes}"
    return f"{review.state} ({one_line(who, 20)})" if who else review.state


def _line(name: str, value: str) -> None:
    out.print(Text(f"{name}:", "dim"), end=" ")
    out.print(one_line(value), markup=False, highlight=False, soft_wrap=True)
