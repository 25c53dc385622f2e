"""The command that shows what an adapter's noise can reach."""

from __future__ import annotations

from pathlib import Path
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
from bayeslora_tool.cli.terminal import err, friendly, out


def inspect(
    adapter: Annotated[str, typer.Argument(help="Bundled name, folder, or hub id.")],
    texts: Annotated[
        Path | None, typer.Option("--data", "-d", help="Texts to look at; default: five sentences.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column or key with the text.")] = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A PNG of the spectra.")
    ] = None,
    base: BaseOption = None,
    labels: LabelsOption = None,
    dropout: DropoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Show what the adapter's noise can reach: spectrum, effective rank, and blind share by layer.

    The blind share is the part of a layer's input, by energy, that lies in the null space of A: a
    text may differ there from all training texts, and its variance will not tell. The paper's
    variance formula, spectral bound and Proposition 1 are checked on the way, by sampling.
    """
    with friendly():
        from rich import box
        from rich.table import Column, Table

        from bayeslora_tool.classifier import BayesLoRAClassifier
        from bayeslora_tool.evaluation.geometry import inspect_adapter
        from bayeslora_tool.evaluation.paper_sentences import TABLE_1
        from bayeslora_tool.training.dataset import read_texts

        how = load_options(base, labels, dropout, device, dtype)
        seen = list(TABLE_1)
        if texts is not None:
            seen = read_texts(texts, text_column=text_column)[:500]
        with err.status("loading the model"):
            classifier = BayesLoRAClassifier.from_pretrained(adapter, **how)
        layers = inspect_adapter(classifier, seen)
        if output is not None:
            from bayeslora_tool.evaluation.plots import spectra

            spectra([(g.name, g.singular_values, g.null_energy) for g in layers], output)
    table = Table(
        Column("layer", no_wrap=True), "first", "last", "rank", "null", "blind", "formula", "bound",
        title=f"{adapter}, rank {len(layers[0].singular_values)}",
        box=box.SIMPLE, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for g in layers:
        table.add_row(
            ".".join(g.name.removeprefix("base_model.model.").split(".")[-4:]),
            f"{g.singular_values[0]:.2f}",
            f"{g.singular_values[-1]:.2f}",
            f"{g.effective_rank:.1f}",
            f"{g.null_dimensions:.1%}",
            f"{g.null_energy:.1%}",
            f"{g.sampled:.3f}",
            f"{g.bound:.1%}",
        )
    out.print(table)
    unseen = max(g.null_variance for g in layers)
    said = "holds" if unseen < 1e-6 else "does not hold (under input placement it need not)"
    out.print(
        f"first, last: singular values of s B A; rank: effective. null: share of the input's "
        f"dimensions that A maps to nothing; blind: of its energy, over the tokens of {len(seen)} "
        f"texts. formula: variance of the output over 1,000 draws, over what section 5.1 of the "
        f"BayesLoRA paper says; bound: the share of its spectral bound that a token reaches.\n"
        f"What lies in the null space has at most {unseen:.0e} of the variance of the whole input: "
        f"Proposition 1 {said}.",
        highlight=False,
    )
