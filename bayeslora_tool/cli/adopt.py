"""The command that takes in an adapter which plain PEFT saved."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bayeslora_tool.cli.choice_options import (
    ChoicesOption,
    LengthNormalizedOption,
    TemplateOption,
    asked_on_command_line,
)
from bayeslora_tool.cli.loading_options import BaseOption, LabelsOption, label_names
from bayeslora_tool.cli.terminal import friendly, out, progress


class Placement(StrEnum):
    """Where the noise is."""

    input = "input"
    rank = "rank"


class Scope(StrEnum):
    """What shares a mask."""

    token = "token"
    sequence = "sequence"


def adopt(
    adapter: Annotated[str, typer.Argument(help="Folder or hub id of a PEFT LoRA adapter.")],
    held_out: Annotated[
        Path, typer.Option("--held-out", help="Labelled texts that did not train it.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
    labels: LabelsOption = None,
    choices: ChoicesOption = None,
    template: TemplateOption = None,
    length_normalized: LengthNormalizedOption = False,
    train: Annotated[
        Path | None,
        typer.Option(
            help="Texts that trained it, to hold others against; default: half of --held-out."
        ),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Rate of the noise; default: the adapter's lora_dropout.")
    ] = None,
    placement: Annotated[
        Placement, typer.Option(help="Where the noise is: input, as PEFT trains, or rank.")
    ] = Placement.input,
    scope: Annotated[
        Scope, typer.Option(help="What shares a mask: token, as PEFT trains, or sequence.")
    ] = Scope.token,
    text_column: Annotated[str, typer.Option(help="Of both files.")] = "text",
    label_column: Annotated[
        str, typer.Option(help="Of both files; names of labels, or numbers of classes.")
    ] = "label",
    base: BaseOption = None,
) -> None:
    """Take in an adapter that plain PEFT trained, so that it can be checked and calibrated.

    Copies it and writes beside it fingerprints of all files, golden predictions, what texts are
    held against later, and a model card to fill in. The adapter itself stays as it is.

    Example: bayeslora adopt my_peft_adapter --labels bad,good --held-out held_out.tsv -o adopted
    """
    with friendly():
        from bayeslora_tool.training.adopting import adopt_adapter

        classifier = adopt_adapter(
            adapter,
            held_out,
            output,
            labels=None if labels is None else label_names(labels),
            **asked_on_command_line(choices, template),
            length_normalized=length_normalized,
            train=train,
            text_column=text_column,
            label_column=label_column,
            base=base,
            dropout=dropout,
            placement=placement.value,
            scope=scope.value,
            progress=progress,
        )
    assert classifier.manifest is not None
    metrics = classifier.manifest.metrics
    folder = output if len(output.parts) > 1 else f"./{output}"
    out.print(
        f"[green]adopted[/] {output}: held-out accuracy {metrics['accuracy_deterministic']:.4f} in "
        f"one pass, {metrics['accuracy_monte_carlo']:.4f} by the mean of {metrics['n_draws']} "
        f"draws. Next: bayeslora calibrate -a {folder} -d other_held_out.tsv -o preset.yaml"
    )
