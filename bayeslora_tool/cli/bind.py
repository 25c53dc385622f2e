"""The command that proposes which labels lead to which tool."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Annotated

import typer

from bayeslora_tool.cli.importing import imported
from bayeslora_tool.cli.loading_options import BaseOption
from bayeslora_tool.cli.terminal import err, friendly, out


def bind(
    tools: Annotated[
        str,
        typer.Option(
            help="MODULE:NAME of your tools: a list of tools or functions. The module is imported, "
            "so its code runs."
        ),
    ],
    adapter: Annotated[
        str, typer.Option("--adapter", "-a", help="Whose labels: bundled name, folder, hub id.")
    ] = "intents",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="File to write; default: stdout."),
    ] = None,
    least: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Cosine similarity from which a label is bound."),
    ] = None,
    base: BaseOption = None,
) -> None:
    """Propose a table of acts: which labels may lead to which of your tools.

    Labels are compared with the tools' names and descriptions by the backbone's embeddings. Names
    say little, so the proposal is a draft: read each line and edit it. The table goes into
    `UncertaintyGate(acts=...)`, or into `bayeslora calibrate --acts`.

    Example: bayeslora bind --tools my_agent:tools -a intents -o acts.yaml
    """
    with friendly():
        from bayeslora_tool.artifacts.backbone import find_backbone
        from bayeslora_tool.artifacts.manifest import find_adapter_folder, read_manifest
        from bayeslora_tool.calibration.binding import (
            LEAST_SIMILARITY,
            binding_yaml,
            propose_binding,
        )

        named = _tools(tools)
        manifest = read_manifest(find_adapter_folder(adapter))
        if manifest is None:
            raise ValueError(f"{adapter} has no bayeslora.json, so its labels have no names")
        record = manifest.backbone
        with err.status("comparing names"):
            folder = find_backbone(base) if base else find_backbone(record.name, record.revision)
            bindings = propose_binding(manifest.labels, named, folder)
        chosen = LEAST_SIMILARITY if least is None else least
        text = binding_yaml(bindings, list(named), chosen)
        if output is None:
            sys.stdout.write(text)
            return
        if output.exists():
            raise FileExistsError(f"{output} is there already; nothing you edited is overwritten")
        output.write_text(text, encoding="utf-8")
    bound = sum(b.similarity >= chosen for b in bindings)
    out.print(f"written to {output}: {bound} of {len(bindings)} labels bound; edit it before use")


def _tools(spec: str) -> dict[str, str]:
    """Name and description of each tool."""
    found = imported("--tools", spec)
    if not isinstance(found, list | tuple):
        raise TypeError(f"--tools (={spec!r}) must be a list of tools, got {found!r:.80}")
    named = {}
    for tool in found:
        name = getattr(tool, "name", None) or getattr(tool, "__name__", None)
        if not isinstance(name, str):
            raise TypeError(f"--tools (={spec!r}) holds {tool!r:.80}, neither tool nor function")
        about = getattr(tool, "description", None) or inspect.getdoc(tool) or ""
        named[name] = str(about).partition("\n\n")[0]
    return named
