"""Commands that make and measure adapters: train, calibrate, evaluate, bench."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bayeslora_tool.cli import BaseOption, PresetOption, app, err, friendly, out, progress


@app.command()
def train(
    train: Annotated[Path, typer.Option("--train", help="Labelled texts: .tsv, .csv or .jsonl.")],
    held_out: Annotated[Path, typer.Option("--held-out", help="Labelled texts to choose by.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the adapter.")],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="Bundled recipe or YAML file; default: Recipe()."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Hub name or folder.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --output.")
    ] = False,
) -> None:
    """Train an adapter with the noise that inference uses, on your labelled texts.

    Both files need a text and a label column. Training texts that recur in the held-out file are
    dropped. Several GPUs: accelerate launch -m bayeslora_tool train ...

    Example: bayeslora train --train mine.tsv --held-out held_out.tsv -o my_adapter
    """
    with friendly():
        from dataclasses import asdict

        from bayeslora_tool.recipe import Recipe, load_recipe, read_training_data
        from bayeslora_tool.settings import parse

        given = {
            "text_column": text_column,
            "label_column": label_column,
            "backbone": backbone,
            "epochs": epochs,
            "seed": seed,
        }
        given = {key: value for key, value in given.items() if value is not None}
        if "backbone" in given:
            given["revision"] = None
        settings = asdict(load_recipe(recipe) if recipe else Recipe()) | given
        checked = parse(Recipe, settings, source="options of train")
        data = read_training_data(checked, train, held_out)
        err.print(
            f"{len(data.train)} texts to train on ({data.dropped} dropped: they recur in "
            f"{held_out.name}), {len(data.held_out)} held out, {len(data.labels)} labels"
        )
        try:
            from bayeslora_tool.training import train_adapter
        except ImportError as error:
            raise ValueError(f'{error}; pip install "bayeslora-tool[train]"') from None

        classifier = train_adapter(checked, data, output, resume=resume)
    assert classifier.manifest is not None
    metrics = classifier.manifest.metrics
    out.print(
        f"[green]saved[/] {output}: held-out accuracy {metrics['accuracy_deterministic']:.4f} in "
        f"one pass, {metrics['accuracy_monte_carlo']:.4f} by the mean of {metrics['n_draws']} "
        f'draws. Next: bayeslora predict -a {output} "some text"'
    )


@app.command()
def bench(
    data: Annotated[Path, typer.Option("--data", "-d", help="Texts: .tsv, .csv, .jsonl, lines.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for bench.json and bench.png.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column or key with the text.")] = "text",
    preset: PresetOption = "sentiment",
    texts: Annotated[int, typer.Option(help="Score at most so many, spread over the file.")] = 64,
    rounds: Annotated[int, typer.Option(help="Turns each contestant takes.")] = 3,
    reference_texts: Annotated[int, typer.Option(help="Texts that are compared.")] = 64,
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

        if min(texts, rounds, reference_texts, reference_draws - 1) < 1:
            raise ValueError("--texts, --rounds, --reference-texts must be >= 1, draws >= 2")
        found = read_texts(data, text_column=text_column)
        with err.status("starting") as status:
            result = run_bench(
                load_preset(preset or "sentiment"),
                found[:: -(-len(found) // texts)],
                rounds=rounds,
                reference_texts=reference_texts,
                reference_draws=reference_draws,
                curves=curves,
                progress=status.update,
            )
        for table in bench_tables(result):
            out.print(table)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            content = json.dumps(result, indent=2, ensure_ascii=False)
            (output / "bench.json").write_text(content + "\n", encoding="utf-8")
            if curves:
                from bayeslora_tool.plots import plot_bench

                plot_bench(result, output / "bench.png")
            out.print(f"written to {output}")


@app.command()
def calibrate(
    adapter: Annotated[
        str, typer.Option("--adapter", "-a", help="Bundled name or folder; its record is written.")
    ],
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Labelled texts that trained nothing.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The preset to write (.yaml).")],
    target_risk: Annotated[
        float, typer.Option(help="Greatest share of errors among what proceeds.")
    ] = 0.05,
    delta: Annotated[float, typer.Option(help="Probability that the promise fails.")] = 0.05,
    max_escalation: Annotated[
        float | None,
        typer.Option(help="Instead: greatest share that does not proceed (reviewers' load)."),
    ] = None,
    out_of_scope: Annotated[
        list[Path] | None,
        typer.Option(help="Texts that no label fits (repeatable); if they proceed, it is wrong."),
    ] = None,
    max_out_of_scope: Annotated[
        float | None, typer.Option(help="Greatest share of those that proceeds.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Training file, to warn of texts that recur there.")
    ] = None,
    estimator: Annotated[str, typer.Option(help="What the thresholds shall hold for.")] = (
        "linearized"
    ),
    draws: Annotated[int, typer.Option(help="Draws T, for monte_carlo and adaptive.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of draws and of the split.")] = 0,
    text_column: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    base: BaseOption = None,
) -> None:
    """Choose thresholds that keep a promise: "at most 5 % wrong among what proceeds".

    Fits the temperature, then the thresholds of the greatest coverage for which the promise holds
    with probability 1 - delta over the draw of the calibration texts (Learn then Test, exact
    binomial tests). It holds for texts drawn from the same source, independently; not after a
    shift, and not if thresholds were chosen on the same texts before. If the promise cannot be
    kept, it says what can, and exits with 1.

    Example:
      bayeslora calibrate -a my_adapter -d held_out.tsv --target-risk 0.02 -o my_policy.yaml
    """
    with friendly():
        from bayeslora_tool.calibration import calibrate_adapter, recurring, write_calibration
        from bayeslora_tool.classifier import BayesLoRAClassifier
        from bayeslora_tool.dataset import read_texts
        from bayeslora_tool.guarantee import Goal
        from bayeslora_tool.loading import find_adapter_folder
        from bayeslora_tool.policy import Scoring
        from bayeslora_tool.recipe import read_as_trained
        from bayeslora_tool.settings import parse

        goal = Goal(target_risk, delta, max_out_of_scope)
        asked = {"estimator": estimator, "n_draws": draws, "seed": seed}
        scoring = parse(Scoring, asked, source="options of calibrate")
        with err.status("loading the model"):
            classifier = BayesLoRAClassifier.from_pretrained(adapter, base=base)
        columns = {"text_column": text_column, "label_column": label_column}
        examples = read_as_trained(classifier.manifest, data, **columns)
        trained = read_as_trained(classifier.manifest, train, **columns) if train else []
        again, twice = recurring(examples, trained)
        if again:
            err.print(f"[yellow]warning:[/] {again} texts recur in {train}: they look easier than "
                      f"texts to come, so the promise may not hold; leave them out")  # fmt: skip
        if twice:
            err.print(f"[yellow]warning:[/] {twice} texts repeat another: the promise counts them "
                      f"as independent")  # fmt: skip
        strangers = [text for file in out_of_scope or [] for text in read_texts(file)]
        with progress("scoring", 2 * len(examples) + len(strangers)) as advance:
            found = calibrate_adapter(
                classifier,
                examples,
                strangers,
                adapter=adapter,
                goal=goal,
                max_escalation=max_escalation,
                scoring=scoring,
                files=[data, *(out_of_scope or [])],
                seed=seed,
                progress=advance,
            )
        result = found.result
        promise = (
            f"risk {target_risk:.1%}" if max_escalation is None else f"load {max_escalation:.1%}"
        )
        if not result.feasible:
            more = (
                "no number of labels would do: the observed risk is above the target"
                if result.more_labels is None
                else f"about {result.more_labels} more labels would reach it at the same shares"
            )
            err.print(
                f"[bold red]not reached:[/] {promise} at {1 - delta:.0%} confidence. The best "
                f"bound is {result.risk_bound:.2%} ({result.risk:.2%} observed at "
                f"{result.coverage:.1%} coverage); {more}. Nothing was written."
            )
            raise typer.Exit(1)
        write_calibration(found, find_adapter_folder(adapter), output)
    t = result.thresholds
    gate = "" if t.tau_novelty is None else f", novelty <= {t.tau_novelty:.3f}"
    outside = (
        ""
        if result.out_of_scope is None
        else f", {result.out_of_scope:.1%} of the out-of-scope texts"
    )
    out.print(
        f"[green]{promise}[/] kept with {1 - delta:.0%} confidence: confidence >= "
        f"{t.tau_conf:.4f}, variance <= {t.tau_var:.3g}{gate}, temperature "
        f"{classifier.temperature:.3f}\n{result.coverage:.1%} of the {result.n_testing} testing "
        f"texts proceed{outside}; {result.risk:.2%} of what proceeds is wrong "
        f"(at most {result.risk_bound:.2%})\nwritten to {output} and the adapter's bayeslora.json"
    )


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option("--data", "-d", help="Labelled texts that chose nothing.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report.")],
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
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples for the intervals.")] = 300,
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

        chosen = load_preset(preset or "sentiment")
        with err.status("loading the model"):
            classifier = BayesLoRAClassifier.from_pretrained(
                chosen.adapter, base=base, scoring=chosen.scoring, policy=chosen.policy
            )
        examples = read_as_trained(
            classifier.manifest, data, text_column=text_column, label_column=label_column
        )
        strangers = read_texts(outside) if outside else []
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
            with err.status("baselines") as status:
                rows = compare(
                    classifier,
                    chosen.adapter,
                    examples,
                    strangers,
                    ensemble=ensemble or [],
                    train=read_as_trained(classifier.manifest, train, **columns) if train else [],
                    progress=status.update,
                )
            report = replace(report, baselines=rows)
        write_report(report, output)
    out.print(metrics_table(report.intervals, report.gates))
    out.print(f"written to {output / 'report.html'}")


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
    text may differ there from all training texts, and its variance will not tell.
    """
    with friendly():
        from rich.table import Table

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
        "layer", "largest", "smallest", "effective rank", "null dimensions", "blind share",
        caption=f"singular values of s B A; blind share: over the tokens of {len(seen)} texts",
    )  # fmt: skip
    for g in layers:
        table.add_row(
            g.name.removeprefix("base_model.model."),
            f"{g.singular_values[0]:.3f}",
            f"{g.singular_values[-1]:.4f}",
            f"{g.effective_rank:.1f} of {len(g.singular_values)}",
            f"{g.null_dimensions:.1%}",
            f"{g.null_energy:.1%}",
        )
    out.print(table)
