"""The commands of the review desk: what waits for people, and their answers."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from bayeslora_tool.cli.importing import imported
from bayeslora_tool.cli.terminal import err, friendly, out, write
from bayeslora_tool.quoting import json_line, one_line, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bayeslora_tool.desk import Desk, FiledReview, Ledger

app = typer.Typer(
    help="What waits for people: list, read and answer reviews, and check the record of it.\n\n"
    "Graphs file their reviews by `Desk(Ledger(...)).watch(graph)`; `list` shows them, `show` one "
    "of them, `answer` decides it once and for all, and `apply` carries decisions out.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

LedgerOption = Annotated[
    str,
    typer.Option(
        "--ledger",
        "-l",
        envvar="BAYESLORA_LEDGER",
        help="A file (SQLite), or postgresql+psycopg://user@host/name.",
    ),
]
NameArgument = Annotated[
    str, typer.Argument(metavar="REVIEW", help="Id of a review, or how it begins.")
]
ByOption = Annotated[
    str, typer.Option("--by", envvar="BAYESLORA_REVIEWER", help="Who you are; it is recorded.")
]
DeskArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:NAME",
        help="Your Desk, with the graphs that it watches; the module's code runs.",
    ),
]
_LEDGER = "desk.sqlite"
_COLOURS = {
    "open": "yellow", "claimed": "cyan", "decided": "blue",
    "applied": "green", "expired": "red", "withdrawn": "dim",
}  # fmt: skip


@app.command("list")
def list_reviews(
    ledger: LedgerOption = _LEDGER,
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
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
) -> None:
    """List reviews, the most urgent first: by priority, then by when they are due, then by age.

    Example: bayeslora desk list --all -n 200
    """
    with _opened(ledger) as found:
        states: Any = [] if everything else state or ["open", "claimed"]
        reviews = found.reviews(*states, limit=limit + 1)
        table = Table("review", "state", "age", "due", "tool", "label", "text", box=None)
        table.columns[-1].overflow, table.columns[-1].no_wrap = "ellipsis", True
        for review in reviews[:limit]:
            label = review.label and f"{review.label} ({review.prediction['confidence']:.2f})"  # type: ignore[index]
            table.add_row(
                review.id[:8],
                Text(_state(review), _COLOURS[review.state]),
                _span(datetime.now(UTC) - review.created),
                _span(review.due - datetime.now(UTC)) if review.due else "-",
                Text(one_line(review.tool, 40)),
                Text(one_line(label or "-", 40)),
                Text(one_line(review.text or review.reason or "", 200)),
            )
        out.print(table)
        for review in reviews[:limit]:
            if review.problem is not None:
                err.print(f"{review.id[:8]} could not be carried out:", end=" ", style="red")
                err.print(one_line(review.problem), markup=False, highlight=False)
        if len(reviews) > limit:
            err.print(f"more than {limit}; --limit shows others")
        if not reviews:
            err.print("no review is " + (" or ".join(states) or "there"))


@app.command()
def show(name: NameArgument, ledger: LedgerOption = _LEDGER) -> None:
    """Show one review: what is asked, why, what may be answered, and what happened so far."""
    with _opened(ledger) as found:
        from bayeslora_tool.desk.refusal import changed
        from bayeslora_tool.review.answers import actions
        from bayeslora_tool.review.requests import REVIEW_ACTION

        review = found.review(name)
        if review.digest != review.shown:
            raise changed(review)
        _line("review", review.id)
        _line("graph, thread", f"{review.graph}, {review.thread}")
        _line("state", _state(review))
        for action in actions(review.request):
            args = "" if action.name == REVIEW_ACTION else f" {json_line(dict(action.args))}"
            _line("asks about", f"{action.name}{args}")
            _line("may be", ", ".join(action.allowed))
        for shown in _described(review):
            out.print(visible(shown), markup=False, highlight=False, soft_wrap=True)
        if review.policy is not None:
            _line("policy", review.policy)
        if review.answer is not None:
            _line("answer", json_line(review.answer))
        if review.problem is not None:
            _line("could not be carried out", review.problem)
        for event in found.events(review.id):
            at = datetime.fromtimestamp(event["at"] / 1000, UTC)
            _line(f"{at:%Y-%m-%d %H:%M:%S} UTC", f"{event['step']} by {event['by']}")


@app.command()
def claim(
    name: NameArgument,
    by: ByOption,
    ledger: LedgerOption = _LEDGER,
    lease: Annotated[
        float, typer.Option(min=0.1, help="Minutes after which others may have it.")
    ] = 10.0,
) -> None:
    """Take a review, so that nobody else decides it while you read."""
    with _opened(ledger) as found:
        review = found.claim(found.review(name).id, by, lease=60 * lease)
    out.print(f"{review.id} is yours until {review.lease:%H:%M:%S} UTC", highlight=False)


@app.command()
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
    ledger: LedgerOption = _LEDGER,
) -> None:
    """Decide a review, once and for all; of two who answer, the second is told who was first.

    It takes effect when a worker carries it out: `bayeslora desk apply`, or `Desk.work`. A request
    about several calls takes the same decision for each; for others, give `--json`.

    Examples: bayeslora desk answer 3f2a approve --by ann;
    bayeslora desk answer 3f2a edit --label freeze_account --by ann;
    bayeslora desk answer 3f2a reject -m "not without a photo" --by ann
    """
    with _opened(ledger) as found:
        review = found.review(name)
        if raw:
            given = _json("DECISION", decision)
        else:
            given = _answer(review, decision, label, args, message)
        found.decide(review.id, given, by)
    out.print(f"{review.id} is decided", highlight=False)


@app.command()
def apply(
    desk: DeskArgument,
    keep_on: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until interrupted (Ctrl-C).")
    ] = False,
    takeover: Annotated[
        bool,
        typer.Option(help="Processes on other machines that were at these threads are gone."),
    ] = False,
) -> None:
    """Carry decisions out on their threads. Exit code 1: one of them failed.

    Example: bayeslora desk apply my_app:desk --watch
    """
    with friendly():
        found = _desk(desk)
        if keep_on:
            from threading import Event

            try:
                found.work(Event())
            except KeyboardInterrupt:
                return
        done = found.apply(takeover=takeover)
        for one in done:
            out.print(one.review, one.result, end=" ", highlight=False)
            out.print(one_line(one.problem or ""), markup=False, highlight=False)
        out.print(f"{sum(one.result == 'applied' for one in done)} applied", highlight=False)
    if any(one.result == "failed" for one in done):
        raise typer.Exit(1)


@app.command()
def sync(desk: DeskArgument) -> None:
    """File what waits in the checkpointers and was missed; withdraw what was settled elsewhere.

    Example: bayeslora desk sync my_app:desk
    """
    with friendly():
        done = _desk(desk).sync()
    out.print(f"{done.filed} filed, {done.withdrawn} withdrawn", highlight=False)


@app.command()
def verify(
    ledger: LedgerOption = _LEDGER,
    head: Annotated[
        str | None, typer.Option(help="Hash that an earlier `verify` has shown, noted elsewhere.")
    ] = None,
) -> None:
    """Check that nothing was changed behind the ledger's back. Exit code 1: something was.

    Every change is hashed with the one before. Who may write to the database could write all of
    them anew; so note the hash that this shows where they cannot, and give it as --head next time.
    """
    with _opened(ledger) as found:
        damages = found.verify(head)
        seq, last = (0, "") if damages else found.head()
    for damage in damages:
        out.print(f"[red]{damage.where}[/]:", end=" ")
        out.print(visible(damage.what), markup=False, highlight=False)
    if damages:
        raise typer.Exit(1)
    out.print(f"{seq} events, all as they were written; head {last or '-'}", highlight=False)


@app.command()
def export(
    ledger: LedgerOption = _LEDGER,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="File to write; default: stdout."),
    ] = None,
) -> None:
    """Write what people decided as JSON lines: labels of the hardest texts there are.

    A line has the text, the model's label and the reviewer's (null where they named none: a reject,
    a tool call), who decided, and when. Reviews that expired have no reviewer and are left out.

    Example: bayeslora desk export -o labels.jsonl
    """
    with _opened(ledger) as found:
        lines = [_exported(review) for review in found.reviews("decided", "applied")]
        lines.sort(key=lambda line: line["when"])
        text = "".join(json_line(line) + "\n" for line in lines)
        if output is None:
            write(text)
            return
        output.write_text(text, encoding="utf-8")
    err.print(f"{len(lines)} written to {output}", highlight=False)


@contextmanager
def _opened(place: str) -> Iterator[Ledger]:
    with friendly():
        from bayeslora_tool.desk import Ledger

        with Ledger(place, create=False) as ledger:
            yield ledger


def _desk(spec: str) -> Desk:
    from bayeslora_tool.desk import Desk

    found = imported("MODULE:NAME", spec)
    if not isinstance(found, Desk):
        raise TypeError(f"{spec} must be a Desk that watches your graphs, got {found!r:.80}")
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} (={text!r:.60}) is no JSON: {error}") from None


def _answer(
    review: FiledReview, decision: str, label: str | None, args: str | None, message: str | None
) -> dict[str, Any]:
    from bayeslora_tool.review.answers import actions

    asked = actions(review.request)
    one: dict[str, Any] = {"type": decision}
    if decision == "edit":
        if (label is None) == (args is None):
            raise ValueError("edit needs --label, or for a tool call --args with JSON")
        new = {"label": label} if args is None else _json("--args", args)
        one["edited_action"] = {"name": asked[0].name, "args": new}
    elif label is not None or args is not None:
        raise ValueError(f"--label and --args go with edit, not with {decision!r}")
    if message is not None:
        one["message"] = message
    return one if len(asked) == 1 else {"decisions": [one] * len(asked)}


def _exported(review: FiledReview) -> dict[str, Any]:
    from bayeslora_tool.desk.answer import said

    word = said(review.request, review.answer)
    assert review.decided_at is not None
    return {
        "text": review.text,
        "model_label": review.label,
        "confidence": review.prediction and review.prediction["confidence"],
        "decision": word.decision,
        "reviewer_label": word.label,
        "message": word.message,
        "who": review.decided_by,
        "when": review.decided_at.isoformat(),
        "tool": review.tool,
        "graph": review.graph,
        "thread": review.thread,
        "key": review.key,
        "policy": review.policy,
        "scored_by": review.scored_by,
        "review": review.id,
    }


def _described(review: FiledReview) -> list[str]:
    requests = review.request.get("action_requests", [review.request])
    return [str(request.get("description", "")) for request in requests]


def _state(review: FiledReview) -> str:
    who = review.assignee or review.decided_by
    return f"{review.state} ({one_line(who, 20)})" if who else review.state


def _span(span: Any) -> str:
    seconds = span.total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _line(name: str, value: str) -> None:
    out.print(f"[dim]{name}:[/]", end=" ", highlight=False)
    out.print(one_line(value), markup=False, highlight=False, soft_wrap=True)
