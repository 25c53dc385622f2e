"""The command line: arguments in, tables out.

A file a command; what each needs is imported when it runs, so that ``--help`` is there at once.
Knows every room, and none knows it.
"""

from __future__ import annotations

import typer

from bayeslora_tool.cli import (
    adopt,
    bench,
    bind,
    calibrate,
    demo,
    desk,
    doctor,
    evaluate,
    inspect,
    monitor,
    predict,
    serve_mcp,
    simulate,
    train,
)

app = typer.Typer(
    help="Calibrated doubt for agents: classify a text, and learn whether to proceed, clarify or "
    "escalate. Start with `bayeslora demo`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)
for command in (
    predict.predict,
    demo.demo,
    doctor.doctor,
    train.train,
    adopt.adopt,
    bind.bind,
    calibrate.calibrate,
    evaluate.evaluate,
    bench.bench,
    inspect.inspect,
    monitor.monitor,
    simulate.simulate,
):
    app.command()(command)
app.command("serve-mcp")(serve_mcp.serve_mcp)
app.add_typer(desk.app, name="desk")
