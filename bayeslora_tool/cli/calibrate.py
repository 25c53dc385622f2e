"""The command that chooses thresholds with a promise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from bayeslora_tool.cli.decisions import ask_all, decision_classifier
from bayeslora_tool.cli.loading_options import (
    PANEL,
    BaseOption,
    DeviceOption,
    DtypeOption,
    load_options,
)
from bayeslora_tool.cli.terminal import err, friendly, out, progress

if TYPE_CHECKING:
    from bayeslora_tool.agents.decision_classifier import DecisionClassifier
    from bayeslora_tool.artifacts.manifest import Manifest
    from bayeslora_tool.calibration.guarantee import Result
    from bayeslora_tool.calibration.thresholds import Goal
    from bayeslora_tool.classifier import LoadOptions
    from bayeslora_tool.policy import Scoring
    from bayeslora_tool.training.dataset import LabelledText


def calibrate(
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Labelled texts that trained nothing.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The preset to write (.yaml).")
    ],
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            "-a",
            help="Bundled name or folder; its record is written.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    decisions: Annotated[
        str | None,
        typer.Option(
            help="Instead of an adapter: MODULE:NAME of one of LangChain's decision models, or of "
            "a DecisionClassifier. The module is imported, so its code runs."
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(help="MODULE:NAME of the Choice, Noul or Score that the model is asked."),
    ] = None,
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
    noise: Annotated[
        float,
        typer.Option(help="Share of all texts to mistype first, for users who mistype as many."),
    ] = 0.0,
    train: Annotated[
        Path | None, typer.Option(help="Training file, to warn of texts that recur there.")
    ] = None,
    estimator: Annotated[
        str,
        typer.Option(help="What the thresholds shall hold for: adaptive, linearized, monte_carlo."),
    ] = "adaptive",
    draws: Annotated[int, typer.Option(help="Draws T of monte_carlo, the most of adaptive.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of draws and of the split.")] = 0,
    text_column: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    base: BaseOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Choose thresholds that keep a promise: "at most 5 % wrong among what proceeds".

    Fits the temperature and a sureness (a label is right, and the text belongs here), orders by it
    if that explains the errors better than confidence, then finds the thresholds of the greatest
    coverage for which the promise holds with probability 1 - delta over the draw of the calibration
    texts (Learn then Test, exact binomial tests). It holds for texts drawn from the same source,
    independently; not after a shift, and not if thresholds were chosen on the same texts before. If
    the promise cannot be kept, it says what can, and exits with 1.

    A decision model has no variance and no temperature, so for one only the least confidence is
    chosen.

    Example:
      bayeslora calibrate -a my_adapter -d held_out.tsv --target-risk 0.02 -o my_policy.yaml
      bayeslora calibrate --decisions my_agent:router --question my_agent:route -d held_out.tsv
      -o my_policy.yaml
    """
    with friendly():
        from bayeslora_tool.calibration.thresholds import Goal
        from bayeslora_tool.policy import Scoring
        from bayeslora_tool.settings import parse

        if (adapter is None) == (decisions is None):
            raise ValueError("give either --adapter or --decisions")
        if not output.parent.is_dir():
            raise FileNotFoundError(f"--output: no folder {output.parent}; make it first")
        goal = Goal(target_risk, delta, max_out_of_scope)
        asked = {"estimator": estimator, "n_draws": draws, "seed": seed}
        scoring = parse(Scoring, asked, source="options of calibrate")
        how = load_options(base, None, None, device, dtype)
        columns = {"text_column": text_column, "label_column": label_column}
        files = _Files(data, train, out_of_scope or [], columns)
        if adapter is not None:
            if question is not None:
                raise ValueError("--question is for --decisions")
            _adapter(adapter, files, output, goal, acts, max_escalation, scoring, noise, how)
            return
        assert decisions is not None
        if (
            acts is not None
            or noise
            or any(value is not None for value in how.values())
            or (estimator, draws) != ("adaptive", 20)
        ):
            raise ValueError(
                "what says how an adapter is loaded, --acts, --noise, --estimator and --draws are "
                "for --adapter"
            )
        model = decision_classifier(decisions, question)
        _decisions(model, files, output, goal, max_escalation, seed)


class _Files(NamedTuple):
    data: Path
    train: Path | None
    out_of_scope: list[Path]
    columns: dict[str, str | None]

    def strangers(self) -> list[str]:
        from bayeslora_tool.training.dataset import read_texts

        column = self.columns["text_column"] or "text"
        return [text for file in self.out_of_scope for text in read_texts(file, text_column=column)]

    def examples(self, manifest: Manifest | None = None) -> list[LabelledText]:
        """The labelled texts; warns of those that recur."""
        from bayeslora_tool.calibration.labelled_texts import recurring
        from bayeslora_tool.training.recipe import read_as_trained

        examples, trained = (
            read_as_trained(manifest, file, **self.columns) if file else []
            for file in (self.data, self.train)
        )
        again, twice = recurring(examples, trained)
        if again:
            err.print(f"[yellow]warning:[/] {again} texts recur in {self.train}: they look easier "
                      f"than others, so the promise may not hold; leave them out")  # fmt: skip
        if twice:
            err.print(f"[yellow]warning:[/] {twice} texts repeat another: the promise counts them "
                      f"as independent")  # fmt: skip
        return examples


def _adapter(
    adapter: str,
    files: _Files,
    output: Path,
    goal: Goal,
    acts: Path | None,
    max_escalation: float | None,
    scoring: Scoring,
    noise: float,
    how: LoadOptions,
) -> None:
    from bayeslora_tool.artifacts.manifest import find_adapter_folder
    from bayeslora_tool.calibration.adapter import calibrate_adapter
    from bayeslora_tool.calibration.preset_file import write_calibration
    from bayeslora_tool.classifier import BayesLoRAClassifier
    from bayeslora_tool.policy import read_acts

    with err.status("loading the model"):
        classifier = BayesLoRAClassifier.from_pretrained(adapter, **how)
    found = calibrate_adapter(
        classifier,
        files.examples(classifier.manifest),
        files.strangers(),
        adapter=adapter,
        goal=goal,
        acts=read_acts(acts) if acts else None,
        max_escalation=max_escalation,
        scoring=scoring,
        typos=noise,
        files=[files.data, *files.out_of_scope],
        seed=scoring.seed,
        progress=progress,
    )
    promise = _promise(found.result, goal, max_escalation)
    write_calibration(found, find_adapter_folder(adapter), output)
    t = found.result.thresholds
    gate = "" if t.tau_novelty is None else f", novelty <= {t.tau_novelty:.3f}"
    level = (
        f"confidence >= {t.tau_conf:.4f}" if t.tau_sure is None else f"sureness >= {t.level:.4f}"
    )
    _tell(
        found.result,
        promise,
        goal,
        f"{level}, variance <= {t.tau_var:.3g}{gate}, temperature {classifier.temperature:.3f}",
        f"{output} and the adapter's bayeslora.json",
    )
    before = classifier.manifest.calibration if classifier.manifest else None
    if before is not None and before.scored_by != found.record.scored_by:
        err.print("[yellow]note:[/] under policies calibrated for this adapter before, all "
                  "escalates now: its temperature or scoring is another")  # fmt: skip


def _decisions(
    classifier: DecisionClassifier,
    files: _Files,
    output: Path,
    goal: Goal,
    max_escalation: float | None,
    seed: int,
) -> None:
    from bayeslora_tool.calibration.confidence import calibrate_confidence
    from bayeslora_tool.calibration.labelled_texts import check_request
    from bayeslora_tool.calibration.preset_file import policy_yaml

    examples = files.examples()
    check_request(examples, classifier.labels, goal, max_escalation)
    strangers = files.strangers()
    found = ask_all(classifier, [*(example.text for example in examples), *strangers])
    result, policy = calibrate_confidence(
        found,
        [*(example.label for example in examples), *([None] * len(strangers))],
        scored_by=classifier.scored_by,
        goal=goal,
        max_escalation=max_escalation,
        seed=seed,
    )
    promise = _promise(result, goal, max_escalation)
    content = policy_yaml(policy, result, goal, max_escalation, [files.data, *files.out_of_scope])
    output.write_text(content, encoding="utf-8")
    _tell(result, promise, goal, f"confidence >= {policy.tau_conf:.4f}", str(output))


def _promise(result: Result, goal: Goal, max_escalation: float | None) -> str:
    """What is kept; ends the command where nothing is."""
    promise = (
        f"risk {goal.target_risk:.1%}" if max_escalation is None else f"load {max_escalation:.1%}"
    )
    if result.feasible:
        return promise
    if max_escalation is not None:
        err.print(
            f"[bold red]not reached:[/] {promise} at {1 - goal.delta:.0%} confidence: at the "
            f"loosest thresholds {1 - result.coverage:.1%} of the {result.n_testing} testing "
            f"texts do not proceed. Raise --max-escalation, or give more texts. Nothing was "
            f"written."
        )
        raise typer.Exit(1)
    more = (
        "no number of labels would do: the observed risk is not below the target"
        if result.risk >= goal.target_risk
        else "more than 10,000 times as many labels would be needed"
        if result.more_labels is None
        else f"about {result.more_labels} more labels would reach it at the same shares"
    )
    err.print(
        f"[bold red]not reached:[/] {promise} at {1 - goal.delta:.0%} confidence. The best "
        f"bound is {result.risk_bound:.2%} ({result.risk:.2%} observed at "
        f"{result.coverage:.1%} coverage); {more}. Nothing was written."
    )
    raise typer.Exit(1)


def _tell(result: Result, promise: str, goal: Goal, thresholds: str, where: str) -> None:
    outside = (
        ""
        if result.out_of_scope is None
        else f", {result.out_of_scope:.1%} of the out-of-scope texts"
    )
    out.print(
        f"[green]{promise}[/] kept with {1 - goal.delta:.0%} confidence: {thresholds}\n"
        f"{result.coverage:.1%} of the {result.n_testing} testing texts proceed{outside}; "
        f"{result.risk:.2%} of what proceeds is wrong (at most {result.risk_bound:.2%})\n"
        f"written to {where}"
    )
