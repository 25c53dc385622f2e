"""Commands that measure adapters: evaluate, bench, inspect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bayeslora_tool.cli import BaseOption, PresetOption, app, err, friendly, out, progress, stages


@app.command()
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
) -> None:
    """Measure what the doubt is worth, and write a page that shows it (HTML, PNGs, JSON).

    Accuracy, calibration, how well each signal ranks errors and finds texts from elsewhere, and
    what each gate of the policy buys; all with 95 % bootstrap intervals.

    Example:

      bayeslora evaluate -p sentiment -d glue_dev.tsv -o report
    """
    with friendly():
        from bayeslora_tool.classifier import BayesLoRAClassifier
        from bayeslora_tool.dataset import read_texts
        from bayeslora_tool.display import metrics_table
        from bayeslora_tool.policy import load_preset
        from bayeslora_tool.recipe import read_as_trained
        from bayeslora_tool.report import evaluate_adapter, write_report

        if (ensemble or train) and not baselines:
            raise ValueError("--ensemble and --train are for --baselines; add it")
        chosen = load_preset(preset or "sentiment")
        with err.status("loading the model"):
            classifier = BayesLoRAClassifier.from_pretrained(
                chosen.adapter, base=base, scoring=chosen.scoring, policy=chosen.policy
            )
        examples = read_as_trained(
            classifier.manifest, data, text_column=text_column, label_column=label_column
        )
        strangers = read_texts(outside, text_column=text_column or "text") if outside else []
        steps = 2 * len(examples) + len(strangers) + resamples
        with progress("scoring and resampling", steps) as advance:
            report = evaluate_adapter(
                classifier,
                chosen,
                examples,
                strangers,
                outside_name=outside_name,
                resamples=resamples,
                progress=advance,
            )
        if baselines:
            from bayeslora_tool.baselines import compare

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
                )
            report = replace(report, baselines=rows)
            for name, given, option in (
                ("ensemble", ensemble, "--ensemble ADAPTER"),
                ("last-layer Laplace", train, "--train FILE"),
            ):
                if not given:
                    err.print(f"[yellow]note:[/] no row for {name}: it needs {option}")
        write_report(report, output)
    out.print(metrics_table(report.intervals, report.gates))
    out.print(f"written to {output / 'report.html'}")


@app.command()
def bench(
    data: Annotated[Path, typer.Option("--data", "-d", help="Texts: .tsv, .csv, .jsonl, lines.")],
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
) -> None:
    """Measure what doubt costs here: each estimator, the common practice, and no doubt at all.

    Takes minutes: the reference alone is hundreds of passes. Example:

      bayeslora bench -d glue_dev.tsv --text-column sentence -o bench
    """
    with friendly():
        from bayeslora_tool.bench import run_bench
        from bayeslora_tool.dataset import read_texts
        from bayeslora_tool.display import bench_tables
        from bayeslora_tool.policy import load_preset
        from bayeslora_tool.settings import write_json

        if min(texts, rounds, reference_texts, reference_draws - 1) < 1:
            raise ValueError("--texts, --rounds, --reference-texts must be >= 1, draws >= 2")
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
            )
        for table in bench_tables(result):
            out.print(table)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / "bench.json", result)
            if curves:
                from bayeslora_tool.plots import plot_bench

                plot_bench(result, output / "bench.png")
            out.print(f"written to {output}")


@app.command()
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
        from bayeslora_tool.dataset import read_texts
        from bayeslora_tool.demo import SENTIMENT
        from bayeslora_tool.theory import inspect_adapter

        seen = [case.text for case in SENTIMENT]
        if texts is not None:
            seen = read_texts(texts, text_column=text_column)[:500]
        with err.status("loading the model"):
            classifier = BayesLoRAClassifier.from_pretrained(adapter, base=base)
        layers = inspect_adapter(classifier, seen)
        if output is not None:
            from bayeslora_tool.plots import spectra

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
