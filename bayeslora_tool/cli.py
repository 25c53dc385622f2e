"""The command line: arguments in, tables out. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from bayeslora_tool.classifier import BayesLoRAClassifier
    from bayeslora_tool.policy import Preset

app = typer.Typer(
    help="Calibrated doubt for agents: classify a text, and learn whether to proceed, clarify or "
    "escalate. Start with `bayeslora demo`.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
out = Console()
err = Console(stderr=True)

PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        "-p",
        help="Bundled preset (sentiment, intents, cautious) or a YAML file.",
    ),
]
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", "-a", help="Instead of the preset's: bundled name, folder, hub id."),
]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", help="Backbone folder or hub name, instead of the adapter's."),
]


@contextmanager
def friendly() -> Iterator[None]:
    """Bad input is a line on stderr and exit code 2, not a traceback."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        err.print("[bold red]error:[/]", end=" ")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Call it with what begins now: a spinner on a terminal, else a line a stage."""
    if not err.is_terminal:
        yield err.print
        return
    with err.status("starting") as status:
        yield status.update


@app.command()
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
        from bayeslora_tool.dataset import read_texts
        from bayeslora_tool.policy import calibration_mismatch, decide, load_preset
        from bayeslora_tool.settings import bundled

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
            sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        return
    from bayeslora_tool.display import results_table

    out.print(results_table(list(zip(texts, predictions, decisions, strict=True)), chosen.policy))


@app.command()
def demo(
    auto: Annotated[
        bool, typer.Option("--auto", help="Scripted answers even at a terminal.")
    ] = False,
) -> None:
    """See agents proceed, ask and call for help, on real text and the bundled adapters.

    At a terminal you answer the questions; otherwise scripted users and reviewers do.
    """
    with friendly():
        from bayeslora_tool.demo import run_demo

        run_demo(out, interactive=sys.stdin.isatty() and out.is_terminal and not auto)


@app.command()
def doctor(
    adapter: Annotated[
        str | None, typer.Option("--adapter", "-a", help="Also check this adapter.")
    ] = None,
) -> None:
    """Check environment, backbone, adapters, noise and thresholds; exit code 1 if any fails."""
    from rich.table import Table

    from bayeslora_tool.doctor import examine

    table = Table("", "check", "found", box=None, pad_edge=False)
    failed = 0
    with err.status("checking"):
        for finding in examine(adapter):
            failed += not finding.ok
            mark = "[green]ok[/]" if finding.ok else "[bold red]fails[/]"
            table.add_row(mark, finding.check, finding.found)
    out.print(table)
    if failed:
        err.print(f"[bold red]{failed} checks failed[/]")
        raise typer.Exit(1)


def _load(preset: Preset, adapter: str | None, base: str | None) -> BayesLoRAClassifier:
    with err.status("loading the model"):
        from bayeslora_tool.classifier import BayesLoRAClassifier

        return BayesLoRAClassifier.from_pretrained(
            adapter or preset.adapter, base=base, scoring=preset.scoring, policy=preset.policy
        )


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """A bar on stderr for work of some length; yields what to call with the number done."""
    from rich.progress import Progress

    with Progress(console=err, transient=True, disable=total <= 64) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


# The commands that make and measure adapters join the same app.
from bayeslora_tool import cli_adapters, cli_measure, cli_serve, cli_simulate  # noqa: E402, F401
