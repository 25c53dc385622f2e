"""The options of every command that loads an adapter, and what they mean to the loader."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bayeslora_tool.classifier import LoadOptions

PANEL = "Adapter"
DTYPES = ("float32", "bfloat16", "float16")

AdapterOption = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        "-a",
        help="Instead of the preset's: bundled name, folder, hub id.",
        rich_help_panel=PANEL,
    ),
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Backbone folder or hub name, instead of the adapter's.",
        rich_help_panel=PANEL,
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help="Names of the classes of a plain PEFT adapter in the order of its head: a file, one a "
        "line, or with commas between them. Default: LABEL_0, LABEL_1, ...",
        rich_help_panel=PANEL,
    ),
]
DropoutOption = Annotated[
    float | None,
    typer.Option(
        "--dropout",
        help="Rate of the noise, in (0, 1), instead of the adapter's own.",
        rich_help_panel=PANEL,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1, ...; default: cuda where there is one.",
        rich_help_panel=PANEL,
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help=f"Of the frozen weights: {', '.join(DTYPES)}. Default: float32.",
        rich_help_panel=PANEL,
    ),
]


def load_options(
    base: str | None,
    labels: str | None,
    dropout: float | None,
    device: str | None,
    dtype: str | None,
) -> LoadOptions:
    """What ``BayesLoRAClassifier.from_pretrained`` is given for these options.

    Raises:
        OSError, ValueError: A file of labels that cannot be read, or no such ``dtype``.
    """
    found: LoadOptions = {"base": base, "dropout": dropout, "device": device}
    if labels is not None:
        found["labels"] = label_names(labels)
    if dtype is not None:
        if dtype not in DTYPES:
            raise ValueError(f"--dtype (={dtype!r}) must be one of {', '.join(DTYPES)}")
        import torch

        found["dtype"] = getattr(torch, dtype)
    return found


def label_names(given: str) -> list[str]:
    """The names in a file, one a line, or those between commas.

    Raises:
        OSError, ValueError: The file cannot be read, or names nothing.
    """
    file = Path(given)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else given.split(",")
    names = [name.strip() for name in lines if name.strip()]
    if not names:
        raise ValueError(f"--labels (={given!r:.200}) names nothing")
    return names
