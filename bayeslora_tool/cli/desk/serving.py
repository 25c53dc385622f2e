"""The command that serves the desk's page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayeslora_tool.cli.desk.opening import LEDGER, LedgerOption, opened
from bayeslora_tool.cli.terminal import err, out


def serve(
    ledger: LedgerOption = LEDGER,
    host: Annotated[
        str,
        typer.Option(
            help="Address to bind. What others can reach needs TLS, or a reverse proxy that signs "
            "people in."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8300,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Host by which people come, besides HOST; may come several times."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="File with the certificate, and those that vouch for it.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="File with the certificate's key.")] = None,
    proxy_header: Annotated[
        str | None,
        typer.Option(help="Header in which a reverse proxy names the reviewer; with --proxy."),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(help="IP address of that proxy; what comes from elsewhere is refused."),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            "--preset",
            "-p",
            help="YAML file whose policy reviews come from, so that they can say what it would "
            "have needed; may come several times. The bundled ones are known.",
        ),
    ] = None,
) -> None:
    """Serve the page for reviewers, and its REST interface, until interrupted (Ctrl-C).

    People sign in with what `bayeslora desk add-reviewer` gave them, or come through a reverse
    proxy that names them. What they decide is carried out by `bayeslora desk apply --watch`.

    Examples: bayeslora desk serve;
    bayeslora desk serve --host 0.0.0.0 --name desk.example.com --tls-cert c.pem --tls-key k.pem;
    bayeslora desk serve --proxy-header X-Forwarded-User --proxy 127.0.0.1 --name desk.example.com
    """
    with opened(ledger) as found:
        from bayeslora_tool.policy import Policy
        from bayeslora_tool.serving.desk import Binding, Proxy, desk_app, serve_desk

        if (proxy_header is None) != (proxy is None):
            raise ValueError("--proxy-header and --proxy go together: who is named, and by whom")
        binding = Binding(
            host=host,
            port=port,
            names=tuple(name or ()),
            cert=tls_cert,
            key=tls_key,
            proxy=Proxy(proxy_header, proxy) if proxy_header and proxy else None,
        )
        if binding.proxy is None and not found.people.all():
            err.print("nobody may sign in yet: bayeslora desk add-reviewer NAME", markup=False)
        policies = [Policy.from_preset(one) for one in preset or ()]
        try:
            serve_desk(
                desk_app(found, binding=binding, policies=policies),
                binding,
                ready=lambda url: out.print(f"open {url}", highlight=False, soft_wrap=True),
            )
        except KeyboardInterrupt:
            err.print("ended")
