"""The command that serves a classifier to MCP clients."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Annotated

import typer

from bayeslora_tool.cli.loading_options import (
    BaseOption,
    DeviceOption,
    DropoutOption,
    DtypeOption,
    LabelsOption,
    load_options,
)
from bayeslora_tool.cli.terminal import err, friendly


class Transport(StrEnum):
    """How an MCP client reaches the server."""

    STDIO = "stdio"
    HTTP = "http"


def serve_mcp(
    preset: Annotated[
        str, typer.Option("--preset", "-p", help="Bundled preset or a YAML file.")
    ] = "intents",
    transport: Annotated[
        Transport,
        typer.Option(help="stdio: the client starts this command. http: http://HOST:PORT/mcp."),
    ] = Transport.STDIO,
    host: Annotated[
        str,
        typer.Option(
            help="Address to bind, for http. Requests must name it or loopback as their host. "
            "There is no login: beyond loopback, put one in front."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="For http.")] = 8000,
    warm: Annotated[
        bool, typer.Option("--warm", help="Load the model before serving, not with the first call.")
    ] = False,
    base: BaseOption = None,
    labels: LabelsOption = None,
    dropout: DropoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Let any MCP client classify with doubt: one tool, whose answer says whether to act on it.

    The model loads with the first call, or before with --warm. Example of a client's configuration:

      {"mcpServers": {"bayeslora": {"command": "bayeslora", "args": ["serve-mcp"]}}}
    """
    with friendly():
        try:
            from bayeslora_tool.serving.mcp_server import serve
        except ImportError as error:
            raise ValueError(f'{error}; pip install "bayeslora-tool[mcp]"') from None
        from bayeslora_tool.policy import load_preset
        from bayeslora_tool.serving.lazy_classifier import LazyClassifier

        chosen = load_preset(preset)
        classifier = LazyClassifier(chosen, **load_options(base, labels, dropout, device, dtype))
        err.print(f"serving {chosen.adapter}: {len(classifier.labels)} labels", highlight=False)
        # To stderr, a line each; before the protocol's own set-up, which would wrap them.
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("mcp").setLevel(logging.WARNING)
        if warm:
            classifier.load()
        serve(
            classifier=classifier,
            policy=chosen.policy,
            transport=transport.value,
            host=host,
            port=port,
        )
