"""The command that makes an adapter from labelled texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayeslora_tool.cli.choice_options import (
    ChoicesOption,
    LengthNormalizedOption,
    TemplateOption,
    asked_on_command_line,
)
from bayeslora_tool.cli.terminal import err, friendly, out, progress


def train(
    train: Annotated[
        Path, typer.Option("--train", help="Labelled texts: .tsv, .csv, .jsonl or .parquet.")
    ],
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
    balanced: Annotated[
        bool | None,
        typer.Option("--balanced", help="Rare labels count as much as frequent ones."),
    ] = None,
    choices: ChoicesOption = None,
    template: TemplateOption = None,
    length_normalized: LengthNormalizedOption = False,
    start: Annotated[
        str | None, typer.Option(help="Adapter whose weights to start from, bundled or a folder.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --output.")
    ] = False,
) -> None:
    r"""Train an adapter with the noise that inference uses, on your labelled texts.

    Both files need a text and a label column. Training texts that recur in the held-out file are
    dropped. Several GPUs: accelerate launch -m bayeslora_tool train ...

    A causal language model learns to choose between answers: name them with --choices, one for each
    label of the data, and the prompt with --template. It needs no head, and keeps none.

    Examples: bayeslora train --train mine.tsv --held-out held_out.tsv -o my_adapter

    bayeslora train --backbone Qwen/Qwen3-0.6B --choices choices.yaml --template "{text}\nAnswer:"
    --train mine.tsv --held-out held_out.tsv -o my_adapter
    """
    with friendly():
        from dataclasses import asdict

        from bayeslora_tool.settings import parse
        from bayeslora_tool.training.recipe import Recipe, load_recipe, read_training_data

        given = {
            "text_column": text_column,
            "label_column": label_column,
            "backbone": backbone,
            "epochs": epochs,
            "seed": seed,
            "balanced": balanced,
            "length_normalized": length_normalized or None,
            **asked_on_command_line(choices, template),
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
            from bayeslora_tool.training.trainer import train_adapter
        except ImportError as error:
            raise ValueError(f'{error}; pip install "bayeslora-tool[train]"') from None

        classifier = train_adapter(
            checked, data, output, start=start, resume=resume, progress=progress
        )
    assert classifier.manifest is not None
    metrics = classifier.manifest.metrics
    # A bare name might be that of a bundled adapter.
    folder = output if len(output.parts) > 1 else f"./{output}"
    out.print(
        f"[green]saved[/] {output}: held-out accuracy {metrics['accuracy_deterministic']:.4f} in "
        f"one pass, {metrics['accuracy_monte_carlo']:.4f} by the mean of {metrics['n_draws']} "
        f"draws. Next: bayeslora calibrate -a {folder} -d more.tsv -o preset.yaml"
    )
