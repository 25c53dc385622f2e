"""Figures of the desk: how much is decided and how soon, who agrees, what audits say."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from bayeslora_tool.cli.desk.opening import LEDGER, LedgerOption, opened
from bayeslora_tool.cli.terminal import out, write
from bayeslora_tool.desk.span import span
from bayeslora_tool.quoting import json_line, one_line

if TYPE_CHECKING:
    from bayeslora_tool.desk.figures import Agreed
    from bayeslora_tool.desk.statistics import Statistics


def statistics(
    ledger: LedgerOption = LEDGER,
    days: Annotated[int, typer.Option(min=1, help="So many, of which today is one.")] = 30,
    target_risk: Annotated[
        float, typer.Option(help="Share of what proceeds that was promised to be wrong at most.")
    ] = 0.05,
    raw: Annotated[bool, typer.Option("--json", help="One line of JSON, with the curves.")] = False,
) -> None:
    """Show how much is decided and how soon, who agrees, and what audits say of the rest.

    Agreement between two reviewers is beyond chance (Cohen's kappa). Audits are calls that
    proceeded and were drawn for a person to label (`audit_rate`); they count from the first one on.
    Evidence against the promise reaches 20 with a probability of 5 % at most if it holds, however
    often you look.

    Example: bayeslora desk statistics --days 7
    """
    with opened(ledger) as found:
        from bayeslora_tool.desk.statistics import statistics as count

        figures = count(found, days=days, target_risk=target_risk)
        if raw:
            write(json_line(figures.to_dict()) + "\n")
            return
    _show_days(figures)
    _show_people(figures)
    _show_audits(figures)


def _show_days(figures: Statistics) -> None:
    names = [*next(iter(figures.days.values()))]
    table = _table("day", *names)
    for day, counts in figures.days.items():
        if any(counts.values()):
            table.add_row(day, *(str(n or "") for n in counts.values()))
    totals = (sum(counts[name] for counts in figures.days.values()) for name in names)
    table.add_row("all", *(str(n) for n in totals), style="bold")
    out.print(table)


def _show_people(figures: Statistics) -> None:
    table = _table("who", "decided", "waited, median", "nine in ten", "labels the model's")
    for name, one in figures.waited_by.items():
        agreed = _share(figures.agreed_by[name])
        table.add_row(_name(name), str(one.n), _span(one.median), _span(one.p90), agreed)
    for group, one in figures.waited_in.items():
        name = "for everybody" if group is None else f"group {group}"
        table.add_row(_name(name), str(one.n), _span(one.median), _span(one.p90), "")
    everyone = figures.waited
    agreed = _share(figures.agreed)
    spans = _span(everyone.median), _span(everyone.p90)
    table.add_row("all", str(everyone.n), *spans, agreed, style="bold")
    out.print(table)
    if figures.pairs:
        pairs = _table("two about the same review", "the same", "kappa")
        for names, said in figures.pairs.items():
            kappa = "-" if said.kappa is None else f"{said.kappa:.2f}"
            pairs.add_row(_name(", ".join(names)), _share(said), kappa)
        out.print(pairs)


def _show_audits(figures: Statistics) -> None:
    if not figures.risks:
        return
    table = _table("audits under policy", "labelled", "not", "wrong", "risk at most", "evidence")
    for risk in figures.risks:
        evidence = "-"
        if risk.n:
            evidence = f"{exp(min(risk.evidence[-1], 700)):.3g}"
        if risk.alarm:
            evidence += ", alarm"
        table.add_row(
            _name(risk.policy or "-"),
            str(risk.n),
            str(risk.unlabelled),
            str(risk.wrong),
            f"{100 * risk.bound:.1f} %",
            evidence,
            style="red" if risk.alarm else None,
        )
    out.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _name(name: str) -> Text:
    return Text(one_line(name, 60))


def _share(one: Agreed) -> str:
    return f"{100 * one.same / one.n:.0f} % of {one.n}" if one.n else "-"


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else span(seconds)
