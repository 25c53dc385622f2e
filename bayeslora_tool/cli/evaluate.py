"""The command that measures what the doubt is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bayeslora_tool.cli.loading_options import (
    BaseOption,
    DeviceOption,
    DropoutOption,
    DtypeOption,
    LabelsOption,
    load_options,
)
from bayeslora_tool.cli.terminal import (
    PresetOption,
    err,
    friendly,
    out,
    progress,
    stages,
)

if TYPE_CHECKING:
    from bayeslora_tool.artifacts.loading import Source


def evaluate(
    data: Annotated[Path, typer.Option("--data", "-d", help="Labelled texts that chose nothing.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the report.")
    ],
    preset: PresetOption = "sentiment",
    outside: Annotated[
        Path | None, typer.Option(help="Texts that belong elsewhere, to be told apart.")
    ] = None,
    outside_name: Annotated[str, typer.Option(help="What the page calls them.")] = (
        "out of distribution"
    ),
    perturb: Annotated[
        bool, typer.Option("--perturb", help="Also with one and two typing errors in each text.")
    ] = False,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also other methods on the same adapter.")
    ] = False,
    ensemble: Annotated[
        list[str] | None, typer.Option(help="A further adapter for the ensemble (repeatable).")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Training texts, for the last-layer Laplace baseline.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=20, help="Bootstrap resamples for the intervals.")
    ] = 300,
    text_column: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    base: BaseOption = None,
    labels: LabelsOption = None,
    dropout: DropoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Measure what the doubt is worth, and write a page that shows it (HTML, PNGs, JSON).

    Accuracy, calibration, how well each signal ranks errors and finds texts from elsewhere, and
    what each gate of the policy buys; all with 95 % bootstrap intervals.

    Example:

      bayeslora evaluate -p sentiment -d glue_dev.tsv -o report
    """
    with friendly():
        from bayeslora_tool.classifier import BayesLoRAClassifier
        from bayeslora_tool.cli.tables import metrics_table
        from bayeslora_tool.evaluation.page import write_report
        from bayeslora_tool.evaluation.report import evaluate_adapter
        from bayeslora_tool.policy import load_preset
        from bayeslora_tool.training.dataset import read_texts
        from bayeslora_tool.training.recipe import read_as_trained

        if (ensemble or train) and not baselines:
            raise ValueError("--ensemble and --train are for --baselines; add it")
        how = load_options(base, labels, dropout, device, dtype)
        chosen = load_preset(preset or "sentiment")
        with err.status("loading the model"):
            classifier = BayesLoRAClassifier.from_preset(chosen, **how)
        examples = read_as_trained(
            classifier.manifest, data, text_column=text_column, label_column=label_column
        )
        strangers = read_texts(outside, text_column=text_column or "text") if outside else []
        steps = (4 if perturb else 2) * len(examples) + len(strangers) + resamples
        with progress("scoring and resampling", steps) as advance:
            report = evaluate_adapter(
                classifier,
                chosen,
                examples,
                strangers,
                outside_name=outside_name,
                perturb=perturb,
                resamples=resamples,
                progress=advance,
            )
        if baselines:
            from bayeslora_tool.evaluation.baselines import compare

            source: Source = {  # none of them has the adapter's noise
                "base": base, "labels": how.get("labels"), "device": device,
                "dtype": how.get("dtype"),
            }  # fmt: skip
            columns = {"text_column": text_column, "label_column": label_column}
            with stages() as stage:
                rows = compare(
                    classifier,
                    chosen.adapter,
                    examples,
                    strangers,
                    ensemble=ensemble or [],
                    train=read_as_trained(classifier.manifest, train, **columns) if train else [],
                    progress=stage,
                    **source,
                )
            report = replace(report, baselines=rows)
            for name, given, option in (
                ("ensemble", ensemble, "--ensemble ADAPTER"),
                ("last-layer Laplace", train, "--train FILE"),
            ):
                if not given:
                    err.print(f"[yellow]note:[/] no row for {name}: it needs {option}")
        write_report(report, output)
    out.print(metrics_table(report.intervals, report.gates, report.mistyped))
    out.print(f"written to {output / 'report.html'}")
