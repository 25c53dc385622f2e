"""Claim a review, and answer it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayeslora_tool.cli.desk.opening import (
    LEDGER,
    ByOption,
    LedgerOption,
    NameArgument,
    from_json,
    opened,
)
from bayeslora_tool.cli.terminal import out

if TYPE_CHECKING:
    from bayeslora_tool.desk import FiledReview


def claim(
    name: NameArgument,
    by: ByOption,
    ledger: LedgerOption = LEDGER,
    lease: Annotated[
        float, typer.Option(min=0.1, help="Minutes after which others may have it.")
    ] = 10.0,
) -> None:
    """Take a review, so that nobody else decides it while you read."""
    with opened(ledger) as found:
        review = found.claim(found.review(name).id, by, lease=60 * lease)
    out.print(f"{review.id} is yours until {review.lease:%H:%M:%S} UTC", highlight=False)


def answer(
    name: NameArgument,
    decision: Annotated[
        str, typer.Argument(metavar="DECISION", help="approve, edit, reject or respond.")
    ],
    by: ByOption,
    label: Annotated[
        str | None, typer.Option(help="With edit: the label to act on instead.")
    ] = None,
    args: Annotated[
        str | None, typer.Option(help="With edit: the tool's new arguments, all of them, as JSON.")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Why; with respond: the answer itself.")
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--json", help="DECISION is the whole answer as JSON, as a HITLResponse."),
    ] = False,
    ledger: LedgerOption = LEDGER,
) -> None:
    """Decide a review, once and for all; of two who answer, the second is told who was first.

    Where two people have to agree, the first answer waits for the second.

    It takes effect when a worker carries it out: `bayeslora desk apply`, or `Desk.work`. A request
    about several calls takes the same decision for each; for others, give `--json`.

    Examples: bayeslora desk answer 3f2a approve --by ann;
    bayeslora desk answer 3f2a edit --label freeze_account --by ann;
    bayeslora desk answer 3f2a reject -m "not without a photo" --by ann
    """
    with opened(ledger) as found:
        review = found.review(name)
        if raw:
            given = from_json("DECISION", decision)
        else:
            given = _answer(review, decision, label, args, message)
        review = found.decide(review.id, given, by)
    if review.state == "open":
        out.print(f"{review.id} has your answer; somebody else has to give theirs", highlight=False)
    else:
        out.print(f"{review.id} is decided", highlight=False)


def _answer(
    review: FiledReview, decision: str, label: str | None, args: str | None, message: str | None
) -> dict[str, Any]:
    from bayeslora_tool.review.answers import actions

    asked = actions(review.request)
    one: dict[str, Any] = {"type": decision}
    if decision == "edit":
        if (label is None) == (args is None):
            raise ValueError("edit needs --label, or for a tool call --args with JSON")
        new = {"label": label} if args is None else from_json("--args", args)
        one["edited_action"] = {"name": asked[0].name, "args": new}
    elif label is not None or args is not None:
        raise ValueError(f"--label and --args go with edit, not with {decision!r}")
    if message is not None:
        one["message"] = message
    return one if len(asked) == 1 else {"decisions": [one] * len(asked)}
