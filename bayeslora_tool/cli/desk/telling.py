"""Who hears of reviews over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bayeslora_tool.cli.desk.opening import LEDGER, LedgerOption, opened
from bayeslora_tool.cli.terminal import err, out, write
from bayeslora_tool.quoting import one_line


def add_webhook(
    url: Annotated[str, typer.Argument(help="https, or http on this machine.")],
    on: Annotated[
        list[str] | None,
        typer.Option(help="filed, due-soon or expired; may come several times. Default: all."),
    ] = None,
    soon: Annotated[
        float, typer.Option(min=0.1, help="Minutes before a review is due that due-soon is told.")
    ] = 15.0,
    texts: Annotated[
        bool, typer.Option("--texts", help="Tell what was asked, in words, too.")
    ] = False,
    page: Annotated[
        str | None, typer.Option(help="Where the desk's page is, for links to reviews.")
    ] = None,
    ledger: LedgerOption = LEDGER,
) -> None:
    """Let an address hear of reviews, and print the secret that signs what it hears, once.

    What is sent is JSON that Slack's webhooks show as it is, with an id, a time and a signature in
    its headers as Standard Webhooks has them. `bayeslora desk apply --watch` sends it, or
    `bayeslora desk send --watch`.

    Example: bayeslora desk add-webhook https://hooks.slack.com/services/... --on filed
    """
    with opened(ledger) as found:
        from bayeslora_tool.desk.outbox import KINDS

        kinds: Any = on or KINDS
        name, secret = found.webhooks.add(url, on=kinds, soon=60 * soon, texts=texts, page=page)
    err.print(f"webhook {name}; its secret, which is not shown again:", highlight=False)
    write(secret + "\n")


def webhooks(ledger: LedgerOption = LEDGER) -> None:
    """List webhooks, and what could not be delivered. Exit code 1: something could not."""
    with opened(ledger) as found:
        hooks = found.webhooks.all()
    for hook in hooks:
        out.print(f"{hook.id}  {', '.join(hook.kinds)}", end="  ", highlight=False)
        # The rest of an address may be all that keeps others from posting there.
        out.print(one_line(_host(hook.url)), markup=False, highlight=False, soft_wrap=True)
        out.print(f"  {hook.waiting} to be sent, {hook.sent} sent of late", highlight=False)
        for letter in hook.dead:
            told = f"  dead: {letter.kind} of {letter.review[:8]}, {letter.tries} tries"
            out.print(f"[red]{told}[/]:", end=" ", highlight=False)
            out.print(one_line(letter.problem or ""), markup=False, highlight=False, soft_wrap=True)
    if not hooks:
        err.print("there is no webhook; see add-webhook")
    if any(hook.dead for hook in hooks):
        err.print("`bayeslora desk retry` sends them again")
        raise typer.Exit(1)


def remove_webhook(
    name: Annotated[str, typer.Argument(metavar="ID", help="As `webhooks` shows it.")],
    ledger: LedgerOption = LEDGER,
) -> None:
    """Let an address hear no more; what was not sent yet is dropped."""
    with opened(ledger) as found:
        found.webhooks.remove(name)
    out.print(f"webhook {name} is removed", highlight=False)


def retry(
    name: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of a webhook; default: of all.")
    ] = None,
    ledger: LedgerOption = LEDGER,
) -> None:
    """Send what could not be delivered again, as soon as somebody sends."""
    with opened(ledger) as found:
        n = found.webhooks.retry(name)
    out.print(f"{n} will be sent again", highlight=False)


def send(
    ledger: LedgerOption = LEDGER,
    keep_on: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until interrupted (Ctrl-C).")
    ] = False,
) -> None:
    """Send what webhooks are to hear now. Exit code 1: something was not taken.

    `bayeslora desk apply --watch` does it as well; several may, and share the work.

    Example: bayeslora desk send --watch
    """
    with opened(ledger) as found:
        if keep_on:
            from threading import Event

            try:
                found.webhooks.send_until(Event())
            except KeyboardInterrupt:
                return
        done = found.webhooks.send()
    for one in done:
        if one.problem is not None:
            out.print(one.message, end=" ", highlight=False)
            out.print(one_line(one.problem), markup=False, highlight=False, soft_wrap=True)
    out.print(f"{sum(one.problem is None for one in done)} sent", highlight=False)
    if any(one.problem is not None for one in done):
        raise typer.Exit(1)


def _host(url: str) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/" + ("..." if parts.path not in ("", "/") else "")
