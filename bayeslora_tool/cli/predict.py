"""The command that classifies texts and routes them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from bayeslora_tool.cli.terminal import AdapterOption, BaseOption, err, friendly, out, progress
from bayeslora_tool.quoting import json_line

if TYPE_CHECKING:
    from bayeslora_tool.classifier import BayesLoRAClassifier
    from bayeslora_tool.policy import Preset


def predict(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to classify; none reads lines from stdin.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="A .tsv, .csv or .jsonl file, or any file of lines."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column or key with the text.")] = "text",
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            "-p",
            help="Bundled preset (sentiment, intents, cautious) or a YAML file; default: the one "
            "named like the adapter, or 'default'.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    base: BaseOption = None,
    draws: Annotated[
        int | None, typer.Option(help="Draws T of adaptive, or else of monte_carlo.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws.")] = None,
    estimator: Annotated[
        str | None, typer.Option(help="linearized, adaptive, monte_carlo or deterministic.")
    ] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a text.")] = False,
) -> None:
    """Classify texts and route each one.

    Examples:

      bayeslora predict "I've seen better films"

      bayeslora predict -p intents "book me a table for two"

      bayeslora predict -f reviews.tsv --text-column sentence --jsonl > routes.jsonl
    """
    with friendly():
        from bayeslora_tool.policy import calibration_mismatch, decide, load_preset
        from bayeslora_tool.settings import bundled
        from bayeslora_tool.training.dataset import read_texts

        if file is not None and texts:
            raise ValueError("give texts or --file, not both")
        if file is not None:
            texts = read_texts(file, text_column=text_column)
        elif not texts:
            if sys.stdin.isatty():
                raise ValueError("no texts: give some as arguments, by --file, or on stdin")
            texts = [line.rstrip("\n") for line in sys.stdin]
            if not texts:
                raise ValueError("stdin was empty; expected a text a line")
        name = adapter or "sentiment"
        chosen = load_preset(preset or (name if name in bundled() else "default"))
        if adapter not in (None, chosen.adapter):
            err.print(
                f"[yellow]note:[/] these thresholds were chosen for adapter {chosen.adapter!r}; "
                f"choose your own from held-out data and give them with --preset FILE"
            )
        classifier = _load(chosen, adapter, base)
        predictions = []
        with progress("scoring", len(texts)) as advance:
            for start in range(0, len(texts), 64):
                batch = texts[start : start + 64]
                predictions += classifier.predict(
                    batch,
                    n_draws=draws,
                    seed=seed,
                    estimator=estimator,  # type: ignore[arg-type]  # checked there
                )
                advance(len(batch))
        decisions = [decide(p, chosen.policy) for p in predictions]
        if mismatch := calibration_mismatch(chosen.policy, predictions[0].scored_by):
            err.print(f"[yellow]note:[/] all escalate. {escape(mismatch)}", soft_wrap=True)
    if jsonl:
        for text, p, d in zip(texts, predictions, decisions, strict=True):
            row = {"text": text, **p.to_dict(), "action": d.action, "reason": d.reason}
            row = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            sys.stdout.write(json_line(row) + "\n")
        return
    from bayeslora_tool.cli.tables import results_table

    out.print(results_table(list(zip(texts, predictions, decisions, strict=True)), chosen.policy))


def _load(preset: Preset, adapter: str | None, base: str | None) -> BayesLoRAClassifier:
    with err.status("loading the model"):
        from bayeslora_tool.classifier import BayesLoRAClassifier

        return BayesLoRAClassifier.from_pretrained(
            adapter or preset.adapter, base=base, scoring=preset.scoring, policy=preset.policy
        )
