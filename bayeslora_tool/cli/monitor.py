"""The command that shows whether a promise is still true."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from bayeslora_tool.cli.terminal import err, friendly, out


def monitor(
    file: Annotated[Path, typer.Argument(help="The monitor's file, as given to Monitor(...).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A PNG of the evidence over time.")
    ] = None,
    audit: Annotated[
        str | None, typer.Option(help="Key of an audit to label, with --wrong or --right.")
    ] = None,
    wrong: Annotated[
        bool | None, typer.Option("--wrong/--right", help="Whether what proceeded was wrong.")
    ] = None,
    reset: Annotated[
        str | None, typer.Option(help="Trust the same thresholds again; say why.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Fingerprint, if the file watches several policies.")
    ] = None,
) -> None:
    """Show whether a policy's promise still holds, label an audit, or reset a tripped one.

    Evidence is the factor that somebody would have made of their money by betting against the
    promise. It reaches 1/delta with probability delta at most if the promise holds, however often
    you look; then the policy is tripped, and everything goes to a person. Exit code 1: tripped.

    For example: bayeslora monitor monitor.sqlite --audit 5f0c1d --wrong
    """
    with friendly():
        from bayeslora_tool.monitoring import monitor_file as known

        if (audit is None) != (wrong is None):
            raise ValueError("--audit KEY needs --wrong or --right, and they need it")
        found = [one for one in known.read_file(file) if policy in (None, one.policy)]
        if not found:
            raise ValueError(f"{file} does not watch policy {policy!r}; leave --policy out to see")
        if len(found) > 1 and (audit or reset or output):
            names = ", ".join(one.policy for one in found)
            raise ValueError(f"{file} watches several policies; say which: --policy one of {names}")
        if audit is not None and wrong is not None:
            known.label(file, found[0].policy, audit, wrong=wrong)
        if reset is not None:
            known.reset(file, found[0].policy, reset)
        found = [one for one in known.read_file(file) if policy in (None, one.policy)]
        if output is not None:
            from bayeslora_tool.evaluation.plots import evidence
            from bayeslora_tool.monitoring import RiskMonitor

            one = found[0]
            wrongs, shift = known.curves(file, one.policy)
            bets = RiskMonitor(one.target_risk, one.delta)
            risk = [(i, bets.update(was)) for i, was in enumerate(wrongs, start=1)]
            seen = {what: curve for what, curve in (("audits", risk), ("texts", shift)) if curve}
            if not seen:
                raise ValueError(f"{file} holds nothing to draw yet; leave -o out")
            evidence(seen, one.delta, output)
            err.print(f"wrote {output}", highlight=False)
    for one in found:
        line = math.log(1 / one.delta)
        out.print(
            f"policy {one.policy}: at most {one.target_risk:.2%} wrong was promised\n"
            f"  audits: {one.audits}, {one.wrong} wrong; evidence {_times(one.risk)} "
            f"(alarm at {_times(line)})\n"
            f"  texts: {one.texts}; evidence of a shift {_times(one.shift)} "
            f"(alarm at {_times(line)})",
            highlight=False,
        )
        if one.alarm is None:
            out.print("  [green]holds[/]", highlight=False)
        else:
            out.print("  [red]tripped[/]:", end=" ")
            out.print(one.alarm, markup=False, highlight=False)
    if any(one.alarm for one in found):
        raise typer.Exit(1)


def _times(log_wealth: float) -> str:
    return f"{math.exp(min(log_wealth, 700)):.3g}"
