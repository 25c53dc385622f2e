"""The commands of the review desk: what waits for people, and their answers."""

from __future__ import annotations

import typer

from bayeslora_tool.cli.desk import (
    answering,
    counting,
    demo,
    people,
    reading,
    record,
    serving,
    telling,
    working,
)

app = typer.Typer(
    help="What waits for people: list, read and answer reviews, and check the record of it.\n\n"
    "Graphs file their reviews by `Desk(Ledger(...)).watch(graph)`; `list` shows them, `show` one "
    "of them, `answer` decides it once and for all, and `apply` carries decisions out.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.command("list")(reading.list_reviews)
for command in (
    reading.show,
    answering.claim,
    answering.answer,
    serving.serve,
    working.apply,
    working.sync,
    record.verify,
    record.export,
    record.erase,
    record.new_key,
    people.add_reviewer,
    people.reviewers,
    people.remove_reviewer,
    telling.add_webhook,
    telling.webhooks,
    telling.remove_webhook,
    telling.retry,
    telling.send,
    counting.statistics,
    demo.demo,
):
    app.command()(command)
