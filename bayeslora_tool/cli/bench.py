"""The command that measures what doubt costs."""

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
from bayeslora_tool.cli.terminal import PresetOption, friendly, out, stages


def bench(
    data: Annotated[Path, typer.Option("--data", "-d", help="Texts: a table, or a text a line.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", file_okay=False, help="Folder for bench.json and, of curves, a PNG."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column or key with the text.")] = "text",
    preset: PresetOption = "sentiment",
    texts: Annotated[
        int, typer.Option(help="Each contestant scores so many, spread over the file.")
    ] = 64,
    rounds: Annotated[int, typer.Option(help="Turns each contestant takes.")] = 3,
    reference_texts: Annotated[
        int, typer.Option(help="Texts whose variances and routes are compared.")
    ] = 64,
    reference_draws: Annotated[int, typer.Option(help="Draws that stand for infinity.")] = 400,
    curves: Annotated[bool, typer.Option(help="Also plot how cost grows.")] = True,
    base: BaseOption = None,
    labels: LabelsOption = None,
    dropout: DropoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Measure what doubt costs here: each estimator, the common practice, and no doubt at all.

    Takes minutes: the reference alone is hundreds of passes. Example:

      bayeslora bench -d glue_dev.tsv --text-column sentence -o bench
    """
    with friendly():
        from bayeslora_tool.benchmarking.bench import run_bench
        from bayeslora_tool.cli.tables import bench_tables
        from bayeslora_tool.policy import load_preset
        from bayeslora_tool.settings import write_json
        from bayeslora_tool.training.dataset import read_texts

        if min(texts, rounds, reference_texts, reference_draws - 1) < 1:
            raise ValueError("--texts, --rounds, --reference-texts must be >= 1, draws >= 2")
        how = load_options(base, labels, dropout, device, dtype)
        found = read_texts(data, text_column=text_column)
        with stages() as stage:
            result = run_bench(
                load_preset(preset or "sentiment"),
                found,
                n_texts=texts,
                rounds=rounds,
                reference_texts=reference_texts,
                reference_draws=reference_draws,
                curves=curves,
                progress=stage,
                **how,
            )
        for table in bench_tables(result):
            out.print(table)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / "bench.json", result)
            if curves:
                from bayeslora_tool.evaluation.plots import plot_bench

                plot_bench(result, output / "bench.png")
            out.print(f"written to {output}")
