"""A desk to try: real reviews of made-up customers, in a ledger of its own."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from bayeslora_tool.cli.terminal import friendly, out, stages

if TYPE_CHECKING:
    from bayeslora_tool.cli.desk.demo_scene import Demo


def demo(
    ledger: Annotated[
        str | None,
        typer.Option(
            "--ledger", "-l", help="Fill this one, new or empty; default: one that is thrown away."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the page.")] = 8340,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page.")] = True,
) -> None:
    """Fill a desk with forty reviews, and open its page: see what a day at the desk is like.

    The texts are made up; the bundled adapters really score them, and what you decide is carried
    out. Some are answered already, one has expired, some want two people. Ends with Ctrl-C; the
    threads that the reviews are about end with it.

    Example: bayeslora desk demo
    """
    with friendly(), TemporaryDirectory(prefix="bayeslora-desk-") as folder:
        from bayeslora_tool.desk import Ledger
        from bayeslora_tool.serving.desk.app import desk_app
        from bayeslora_tool.serving.desk.binding import Binding
        from bayeslora_tool.serving.desk.running import serve_desk
        from bayeslora_tool.serving.desk.similar import SimilarReviews

        binding = Binding(port=port)
        with Ledger(ledger or Path(folder) / "desk.sqlite") as made:
            if made.head()[0]:
                raise ValueError(f"the ledger {ledger} is not empty; name a new one")
            with stages() as tell:
                tell("loading what scores texts")
                from bayeslora_tool.cli.desk.demo_scene import set_up

                scene = set_up(made, tell)
            stop = Event()
            worker = Thread(target=scene.desk.work, args=(stop,), name="desk demo")
            worker.start()
            try:
                app = desk_app(
                    made,
                    binding=binding,
                    policies=scene.policies,
                    similar=SimilarReviews(made, lambda: scene.intents),
                )
                serve_desk(app, binding, ready=lambda url: _ready(url, scene, browser))
            finally:
                stop.set()
                worker.join()


def _ready(url: str, scene: Demo, browser: bool) -> None:
    from bayeslora_tool.cli.desk.demo_scene import PEOPLE

    out.print(f"The desk is at {url}. Sign in with one of these names and its token:")
    table = Table("name", "role", "groups", "token", box=None)
    for name, token in scene.tokens.items():
        role, groups = PEOPLE[name]
        table.add_row(name, role, ", ".join(groups) or "-", token)
    out.print(table)
    out.print("Two browsers, or a private window, make two reviewers. Ctrl-C ends it.")
    if browser:
        import webbrowser

        webbrowser.open(url)
