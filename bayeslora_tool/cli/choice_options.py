"""The options of commands that make a classifier of a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bayeslora_tool.documents import read_document

PANEL = "Language model"

ChoicesOption = Annotated[
    Path | None,
    typer.Option(
        help="JSON or YAML file with what the model writes for each label, such as "
        '{"refund": " refund", "other": " other"}.',
        rich_help_panel=PANEL,
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(help="Its prompt, with {text} once; \\n is a new line.", rich_help_panel=PANEL),
]
LengthNormalizedOption = Annotated[
    bool,
    typer.Option(
        "--length-normalized",
        help="Divide a choice's log-probability by its number of tokens.",
        rich_help_panel=PANEL,
    ),
]


def asked_on_command_line(choices: Path | None, template: str | None) -> dict[str, Any]:
    """The arguments ``choices`` and ``template`` that these options stand for.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read.
    """
    return {
        "choices": None if choices is None else read_document(choices),
        "template": None if template is None else template.replace("\\n", "\n"),
    }
