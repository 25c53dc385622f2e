"""The command that chooses thresholds with a promise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayeslora_tool.cli.terminal import BaseOption, err, friendly, out, progress


def calibrate(
    adapter: Annotated[
        str, typer.Option("--adapter", "-a", help="Bundled name or folder; its record is written.")
    ],
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Labelled texts that trained nothing.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The preset to write (.yaml).")
    ],
    target_risk: Annotated[
        float, typer.Option(help="Greatest share of errors among what proceeds.")
    ] = 0.05,
    delta: Annotated[float, typer.Option(help="Probability that the promise fails.")] = 0.05,
    acts: Annotated[
        Path | None,
        typer.Option(
            help="YAML of the labels that lead to each act (`bayeslora bind` proposes one): wrong "
            "then means the wrong act."
        ),
    ] = None,
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
    estimator: Annotated[
        str, typer.Option(help="What the thresholds shall hold for: linearized or monte_carlo.")
    ] = "linearized",
    draws: Annotated[int, typer.Option(help="Draws T of monte_carlo.")] = 20,
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
        from bayeslora_tool.artifacts.manifest import find_adapter_folder
        from bayeslora_tool.calibration.adapter import calibrate_adapter, recurring
        from bayeslora_tool.calibration.preset_file import write_calibration
        from bayeslora_tool.calibration.thresholds import Goal
        from bayeslora_tool.classifier import BayesLoRAClassifier
        from bayeslora_tool.policy import Scoring, read_acts
        from bayeslora_tool.settings import parse
        from bayeslora_tool.training.dataset import read_texts
        from bayeslora_tool.training.recipe import read_as_trained

        if not output.parent.is_dir():
            raise FileNotFoundError(f"--output: no folder {output.parent}; make it first")
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
        strangers = [
            text
            for file in out_of_scope or []
            for text in read_texts(file, text_column=text_column or "text")
        ]
        found = calibrate_adapter(
            classifier,
            examples,
            strangers,
            adapter=adapter,
            goal=goal,
            acts=read_acts(acts) if acts else None,
            max_escalation=max_escalation,
            scoring=scoring,
            files=[data, *(out_of_scope or [])],
            seed=seed,
            progress=progress,
        )
        result = found.result
        promise = (
            f"risk {target_risk:.1%}" if max_escalation is None else f"load {max_escalation:.1%}"
        )
        if not result.feasible and max_escalation is not None:
            err.print(
                f"[bold red]not reached:[/] {promise} at {1 - delta:.0%} confidence: at the "
                f"loosest thresholds {1 - result.coverage:.1%} of the {result.n_testing} testing "
                f"texts do not proceed. Raise --max-escalation, or give more texts. Nothing was "
                f"written."
            )
            raise typer.Exit(1)
        if not result.feasible:
            more = (
                "no number of labels would do: the observed risk is not below the target"
                if result.risk >= target_risk
                else "more than 10,000 times as many labels would be needed"
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
    before = classifier.manifest.calibration if classifier.manifest else None
    if before is not None and before.scored_by != found.record.scored_by:
        err.print("[yellow]note:[/] under policies calibrated for this adapter before, all "
                  "escalates now: its temperature or scoring is another")  # fmt: skip
