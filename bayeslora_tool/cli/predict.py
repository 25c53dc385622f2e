"""The command that classifies texts and routes them, as they come."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from bayeslora_tool.cli.loading_options import (
    AdapterOption,
    BaseOption,
    DeviceOption,
    DropoutOption,
    DtypeOption,
    LabelsOption,
    load_options,
)
from bayeslora_tool.cli.tables import Result, ResultsTable
from bayeslora_tool.cli.terminal import (
    err,
    friendly,
    into_a_file,
    out,
    printed,
    progress,
    uninterrupted,
    write,
)
from bayeslora_tool.quoting import json_line

if TYPE_CHECKING:
    from bayeslora_tool.classifier import BayesLoRAClassifier, LoadOptions
    from bayeslora_tool.policy import Policy, Preset
    from bayeslora_tool.prediction import Prediction
    from bayeslora_tool.training.dataset import Text

FAULTY = 3  # exit code: some rows could not be scored


def predict(
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts to classify; none reads stdin, a text a line, as they come."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="A .tsv, .csv, .jsonl or .parquet file, or any file of lines."
        ),
    ] = None,
    text_column: Annotated[
        str, typer.Option(help="Column (or JSON key) of --file with the text.")
    ] = "text",
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
    draws: Annotated[
        int | None, typer.Option(help="Draws T of adaptive, or else of monte_carlo.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws.")] = None,
    estimator: Annotated[
        str | None, typer.Option(help="linearized, adaptive, monte_carlo or deterministic.")
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="One JSON object a text, with all that is known.")
    ] = False,
    base: BaseOption = None,
    labels: LabelsOption = None,
    dropout: DropoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Classify texts and route each one: proceed, clarify (ask the user) or escalate (to a person).

    Rows come out in the order they went in, as soon as they are scored. A text that cannot be
    scored (empty, not UTF-8, a broken row) escalates with an error instead of a label, and the
    others go on.

    Exit code: 0, all were scored; 3, some rows were not; 2, wrong options or an unusable file; 130,
    interrupted, and what was scored is written.

    Examples:

      bayeslora predict "I've seen better films"

      bayeslora predict -p intents "book me a table for two"

      bayeslora predict -f reviews.tsv --text-column sentence --jsonl > routes.jsonl

      tail -f chat.log | bayeslora predict --jsonl | grep escalate
    """
    with friendly():
        from bayeslora_tool.policy import load_preset
        from bayeslora_tool.settings import bundled

        how = load_options(base, labels, dropout, device, dtype)
        batches = _batches(texts or [], file, text_column)
        name = adapter or "sentiment"
        chosen = load_preset(preset or (name if name in bundled() else "default"))
        if adapter not in (None, chosen.adapter):
            err.print(
                f"[yellow]note:[/] these thresholds were chosen for adapter {chosen.adapter!r}; "
                f"choose your own from held-out data and give them with --preset FILE",
                soft_wrap=True,
            )
        classifier = _load(chosen, adapter, how)

        def score(some: list[str]) -> list[Prediction]:
            return classifier.predict(
                some,
                n_draws=draws,
                seed=seed,
                estimator=estimator,  # type: ignore[arg-type]  # checked there
            )

        score([])  # a wrong option ends here, and is no row's fault
        results = _routed(batches, score, chosen.policy)
        if jsonl:
            done, faulty = _write_all(results, _json_lines)
        else:
            table = ResultsTable(classifier.labels, chosen.policy, out.width)
            done, faulty = _write_all(results, lambda some: printed(table.rows(some)))
            write(printed(table.caption()))
    if faulty:
        err.print(
            f"[yellow]warning:[/] {faulty} of {done} rows could not be scored: they escalate",
            soft_wrap=True,
        )
        raise typer.Exit(FAULTY)


def _load(preset: Preset, adapter: str | None, how: LoadOptions) -> BayesLoRAClassifier:
    with err.status("loading the model"):
        from bayeslora_tool.classifier import BayesLoRAClassifier

        return BayesLoRAClassifier.from_preset(preset, adapter=adapter, **how)


def _batches(texts: list[str], file: Path | None, column: str) -> Iterator[list[Text]]:
    from bayeslora_tool.training.dataset import BATCH, checked_text, line_batches, text_batches

    if file is not None and texts:
        raise ValueError("give texts or --file, not both")
    if file is not None:
        found = text_batches(file, text_column=column)
        return chain([next(found)], found)  # a file that cannot be used fails before a model loads
    if texts:
        given = [checked_text(text, f"texts[{i}]") for i, text in enumerate(texts)]
        return (given[start : start + BATCH] for start in range(0, len(given), BATCH))
    if sys.stdin.isatty():
        raise ValueError("no texts: give some as arguments, by --file, or on stdin")
    return line_batches(sys.stdin.buffer, "stdin")


def _routed(
    batches: Iterable[list[Text]], score: Callable[[list[str]], list[Prediction]], policy: Policy
) -> Iterator[list[Result]]:
    from bayeslora_tool.policy import calibration_mismatch, decide

    told = False
    for batch in batches:
        found = _scored([text.content for text in batch if not text.fault], score)
        results = []
        for content, fault in batch:
            scored = fault or next(found)
            if isinstance(scored, Exception):
                results.append(Result(content, fault=str(scored)))
                continue
            results.append(Result(content, scored, decide(scored, policy)))
            if not told and (mismatch := calibration_mismatch(policy, scored.scored_by)):
                err.print(f"[yellow]note:[/] all escalate. {escape(mismatch)}", soft_wrap=True)
                told = True
        yield results


def _scored(
    texts: list[str], score: Callable[[list[str]], list[Prediction]]
) -> Iterator[Prediction | Exception]:
    """A prediction a text, or why there is none: one text may spoil a batch."""
    try:
        yield from score(texts)
        return
    except (TypeError, ValueError) as error:
        if len(texts) == 1:
            yield error
            return
    for text in texts:
        yield from _scored([text], score)


def _write_all(
    results: Iterable[list[Result]], render: Callable[[list[Result]], str]
) -> tuple[int, int]:
    """Write results as they come; how many there were, and how many had a fault."""
    done = faulty = 0
    try:
        # A terminal sees the rows themselves, and a pipe's reader may write to the terminal.
        with progress("scored", None) if into_a_file() else nullcontext(lambda n: None) as advance:
            for some in results:
                rendered = render(some)
                with uninterrupted():
                    write(rendered)
                    done += len(some)
                    faulty += sum(result.fault is not None for result in some)
                advance(len(some))
    except KeyboardInterrupt:
        err.print(f"interrupted: {done} rows are written")
        raise typer.Exit(130) from None
    except ValueError:
        if done:
            err.print(f"{done} rows are written, but the rest cannot be read:")
        raise
    return done, faulty


def _json_lines(results: list[Result]) -> str:
    lines = []
    for text, p, decision, fault in results:
        if p and decision:
            row = {"text": text, **p.to_dict(), **asdict(decision)}
            row = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            lines.append(json_line(row))
        else:  # in ASCII: it may be the text's fault that it can be written no other way
            found = text if isinstance(text, str) else None
            lines.append(json.dumps({"text": found, "error": fault, "action": "escalate"}))
    return "".join(line + "\n" for line in lines)
