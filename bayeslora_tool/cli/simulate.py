"""The command that plays scenarios through the graph before people meet it."""

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
from bayeslora_tool.cli.terminal import err, friendly, out, progress

if TYPE_CHECKING:
    from bayeslora_tool.policy import Preset


def simulate(
    scenarios: Annotated[
        Path,
        typer.Argument(help="Scenarios (.yaml, .jsonl), or labelled texts (.tsv, .csv, .parquet)."),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            help="Preset or YAML file (repeatable; all of one adapter and scoring).",
        ),
    ] = None,
    out_of_scope: Annotated[
        list[Path] | None,
        typer.Option(help="Texts that no label fits (repeatable); to act on one is an error."),
    ] = None,
    reviewer_error: Annotated[
        float | None, typer.Option(help="Share of wrong reviews. Default: the file's, else 0.05.")
    ] = None,
    review_seconds: Annotated[
        float | None, typer.Option(help="Median time of a review. Default: the file's, else 60.")
    ] = None,
    review_sigma: Annotated[
        float | None, typer.Option(help="Spread of its logarithm. Default: the file's, else 0.8.")
    ] = None,
    error_price: Annotated[
        float | None, typer.Option(help="Of a wrong action. Default: the file's, else 10.")
    ] = None,
    hour_price: Annotated[
        float | None, typer.Option(help="Of a reviewer's hour. Default: the file's, else 40.")
    ] = None,
    question_price: Annotated[
        float | None, typer.Option(help="Of a question to a user. Default: the file's, else 0.1.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the reviewer's luck.")] = 0,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also try other thresholds for the first policy.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for simulation.json, runs.jsonl, sweep.png."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Instead of the adapter's.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Instead of the adapter's.")] = None,
    base: BaseOption = None,
    labels: LabelsOption = None,
    dropout: DropoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """See what a policy will do, and cost, before it meets people.

    Each scenario runs through the real graph: a scripted user answers its questions, a reviewer
    who sometimes errs settles what it escalates. The table sets each policy beside no gate at all,
    and beside a threshold on the confidence alone that asks people equally often. An error gets
    through when a wrong label, or any label for an out-of-scope text, is acted on.

    With --sweep, a grid of thresholds shows what each error less costs in people's time, and which
    pair is cheapest. It is the cheapest on these very texts: check it on others, or use
    `bayeslora calibrate`, before you rely on it.

    Examples:

      bayeslora simulate examples/scenarios.yaml --policy intents

      bayeslora simulate test.tsv --out-of-scope strangers.txt -p intents -p cautious --sweep -o sim
    """
    with friendly():
        from bayeslora_tool.classifier import BayesLoRAClassifier
        from bayeslora_tool.policy import calibration_mismatch, load_preset
        from bayeslora_tool.settings import parse
        from bayeslora_tool.simulation.report import simulation_table, write_simulation
        from bayeslora_tool.simulation.scenarios import (
            Prices,
            Reviewer,
            read_scenarios,
            scenarios_from_labelled,
        )
        from bayeslora_tool.simulation.simulator import simulate as run
        from bayeslora_tool.training.dataset import read_texts
        from bayeslora_tool.training.recipe import read_as_trained

        how = load_options(base, labels, dropout, device, dtype)
        presets = {name: load_preset(name) for name in policy or ["intents"]}
        first = next(iter(presets.values()))
        for name, preset in presets.items():
            if replace(preset, policy=first.policy) != first:
                raise ValueError(
                    f"--policy {name!r} is for adapter {preset.adapter!r} and {preset.scoring}, "
                    f"the first for {first.adapter!r} and {first.scoring}, or for other acts; "
                    f"simulate them one by one"
                )
        if first.scoring.estimator == "adaptive" and (sweep or len(presets) > 1):
            # Its scores serve the thresholds that they were made for, and no others.
            err.print(
                "[yellow]note:[/] scored linearized instead of adaptive, whose scores are for one "
                "policy's thresholds only"
            )
            presets = {name: _linearized(preset) for name, preset in presets.items()}
            first = next(iter(presets.values()))
        if sweep and output is None:
            raise ValueError("--sweep draws a picture; say where to with --output DIR")
        labelled = scenarios.suffix.lower() in (".tsv", ".csv", ".parquet")
        file = None if labelled else read_scenarios(scenarios)
        options = {
            "error_rate": reviewer_error, "median_seconds": review_seconds, "sigma": review_sigma,
        }  # fmt: skip
        reviewer = parse(
            Reviewer, _either(options, file.reviewer if file else {}), source="the reviewer"
        )
        amounts = {
            "error": error_price, "reviewer_hour": hour_price, "clarification": question_price,
        }  # fmt: skip
        prices = parse(Prices, _either(amounts, file.prices if file else {}), source="the prices")
        strangers = [
            text
            for path in out_of_scope or []
            for text in read_texts(path, text_column=text_column or "text")
        ]
        with err.status("loading the model"):
            classifier = BayesLoRAClassifier.from_preset(first, **how)
        for name, preset in presets.items():
            if mismatch := calibration_mismatch(preset.policy, classifier.scored_by()):
                raise ValueError(f"--policy {name!r}: all would escalate. {mismatch}")
        if file is None:
            examples = read_as_trained(
                classifier.manifest, scenarios, text_column=text_column, label_column=label_column
            )
            examples = [replace(e, label=classifier.act_of.get(e.label, e.label)) for e in examples]
            played = scenarios_from_labelled(examples, strangers)
        else:
            checked = read_scenarios(scenarios, labels=classifier.labels)  # with the line
            played = [*checked.scenarios, *scenarios_from_labelled([], strangers)]
        found = run(
            played,
            classifier=classifier,
            policies={name: preset.policy for name, preset in presets.items()},
            reviewer=reviewer,
            prices=prices,
            seed=seed,
            sweep=sweep,
            progress=progress,
        )
        files = [] if output is None else write_simulation(found, output)
    out.print(simulation_table(found))
    if files:
        out.print(f"written: {', '.join(map(str, files))}")


def _linearized(preset: Preset) -> Preset:
    """Scored so, with thresholds that do not insist on their own scoring."""
    return replace(
        preset,
        scoring=replace(preset.scoring, estimator="linearized"),
        policy=replace(preset.policy, calibrated_for=None),
    )


def _either(options: dict[str, float | None], stated: dict[str, float]) -> dict[str, float]:
    return stated | {key: value for key, value in options.items() if value is not None}
