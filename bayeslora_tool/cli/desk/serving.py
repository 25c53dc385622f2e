"""The command that serves the desk's page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bayeslora_tool.cli.desk.opening import LEDGER, LedgerOption, opened
from bayeslora_tool.cli.terminal import err, out

if TYPE_CHECKING:
    from bayeslora_tool.classifier import BayesLoRAClassifier
    from bayeslora_tool.desk import Ledger
    from bayeslora_tool.serving.desk.similar import SimilarReviews


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
    similar: Annotated[
        str | None,
        typer.Option(
            help="Preset or adapter folder whose backbone finds settled reviews like the one that "
            "is open; it loads when somebody first asks."
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
        alike = None if similar is None else _alike(found, similar)
        try:
            serve_desk(
                desk_app(found, binding=binding, policies=policies, similar=alike),
                binding,
                ready=lambda url: out.print(f"open {url}", highlight=False, soft_wrap=True),
            )
        except KeyboardInterrupt:
            err.print("ended")


def _alike(ledger: Ledger, name: str) -> SimilarReviews:
    """What finds similar reviews, by the backbone of a preset's adapter or of a folder's."""
    from bayeslora_tool.artifacts.manifest import find_adapter_folder
    from bayeslora_tool.policy import load_preset
    from bayeslora_tool.serving.desk.similar import SimilarReviews

    adapter = name if Path(name).is_dir() else load_preset(name).adapter
    find_adapter_folder(adapter)  # what is not there is told now, not to who first asks

    def load() -> BayesLoRAClassifier:
        from bayeslora_tool.classifier import BayesLoRAClassifier

        return BayesLoRAClassifier.from_pretrained(adapter)

    return SimilarReviews(ledger, load)
