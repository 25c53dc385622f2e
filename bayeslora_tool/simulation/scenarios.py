"""What a simulation plays: texts, what is right, and what the people in it would say.

Read from a scenario file or made from labelled texts. Knows no model and no graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from bayeslora_tool.documents import from_json, read_text, yaml_lines
from bayeslora_tool.policy import Probability
from bayeslora_tool.prediction import unknown_label
from bayeslora_tool.settings import Label, parse
from bayeslora_tool.text import check_label, check_text
from bayeslora_tool.training.dataset import LabelledText

_CONFIG = ConfigDict(extra="forbid")
LONGEST_JSONL = 16_000_000  # bytes; some ten thousand scenarios
_DECISIONS = "expected approve, reject, {edit: LABEL} or {respond: WORDS}"
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=_CONFIG)
class Reviewer:
    """How good and how quick the simulated reviewer is.

    Attributes:
        error_rate: Probability that a review without a script is wrong, in [0, 1].
        median_seconds: Median of the log-normal time that a review takes, > 0.
        sigma: Standard deviation of that time's logarithm, >= 0; 0: each takes the median.
    """

    error_rate: Probability = 0.05
    median_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    sigma: Amount = 0.8


@dataclass(frozen=True, config=_CONFIG)
class Prices:
    """What things cost, each >= 0, in one currency.

    Attributes:
        error: Of acting on a wrong label.
        reviewer_hour: Of an hour of a reviewer's time.
        clarification: Of one question to the user.
    """

    error: Amount = 10.0
    reviewer_hour: Amount = 40.0
    clarification: Amount = 0.1


def _words(value: object) -> str:
    return check_text(value, "it") if isinstance(value, str) else value  # type: ignore[return-value]


def _decision(value: object) -> object:
    if value in ("approve", "reject"):
        return value
    if isinstance(value, Mapping) and len(value) == 1:
        ((kind, words),) = value.items()
        if kind in ("edit", "respond") and isinstance(words, str) and words.strip():
            return {kind: check_label(words, "it") if kind == "edit" else words}
    raise ValueError(_DECISIONS)


Words = Annotated[str, BeforeValidator(_words)]
ReviewScript = Annotated[str | dict[str, str], BeforeValidator(_decision)]


@dataclass(frozen=True, config=_CONFIG)
class Scenario:
    """One text on its way through the graph.

    Attributes:
        id: Unique; seeds the reviewer's luck with this text.
        text: What the user sends.
        gold: The right label; None if no label fits, so that acting on any is an error.
        clarifications: What the user answers, question by question; past the end, that they do
            not know.
        reviews: What the reviewer decides, review by review: ``"approve"``, ``"reject"``,
            ``{"edit": label}`` or ``{"respond": words}``; past the end, the ``Reviewer`` decides
            by ``gold`` and its error rate.
    """

    id: Words
    text: Words
    gold: Label | None
    clarifications: Annotated[tuple[Words, ...], Field(max_length=1000)] = ()
    reviews: Annotated[tuple[ReviewScript, ...], Field(max_length=1000)] = ()

    def check_labels(self, labels: Sequence[str], where: str) -> None:
        """Refuse a label outside ``labels``.

        Raises:
            ValueError: Names ``where``, the key, and labels like the one that came.
        """
        named = [("gold", self.gold)] if self.gold is not None else []
        named += [
            ("reviews", r["edit"]) for r in self.reviews if isinstance(r, dict) and "edit" in r
        ]
        for key, label in named:
            if label not in labels:
                raise ValueError(
                    f"{where}: {unknown_label(label, labels)}, in `{key}`; null is for texts that "
                    f"no label fits"
                )


@plain_dataclass(frozen=True)
class ScenarioFile:
    """What a scenario file holds; ``reviewer`` and ``prices`` are only the keys it states."""

    scenarios: list[Scenario]
    reviewer: dict[str, float]
    prices: dict[str, float]


def read_scenarios(path: str | Path, *, labels: Sequence[str] = ()) -> ScenarioFile:
    """Read a scenario file.

    Args:
        path: ``.yaml`` or ``.yml`` (a mapping of ``scenarios``, a list, and optionally
            ``reviewer`` and ``prices``) or ``.jsonl`` (a scenario a line). ``gold`` must stand in
            each, as null where no label fits.
        labels: The classifier's; labels outside them are refused. Empty: no check.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another file type, broken YAML or JSON, an unknown or missing key, an unreadable
            text, an id that occurs twice, an unknown label, or no scenarios; names file and line.
    """
    path = Path(path)
    settings: dict[str, Any] = {}
    rows: Iterable[tuple[int, object]]
    if path.suffix in (".yaml", ".yml"):
        settings, rows = _yaml_rows(path)
    elif path.suffix == ".jsonl":
        rows = _jsonl_rows(path)
    else:
        raise ValueError(
            f"{path.name}: unknown file type {path.suffix!r:.20}; scenarios stand in .yaml, .yml "
            f"or .jsonl, labelled texts in .tsv or .csv"
        )
    for key, kind in (("reviewer", Reviewer), ("prices", Prices)):
        parse(kind, settings.get(key, {}), source=f"{path.name}, `{key}`", strict=True)
    scenarios, lines = [], dict[str, int]()
    for line, row in rows:
        where = f"{path.name}, line {line}"
        scenario: Scenario = parse(Scenario, row, source=where, strict=True)
        if scenario.id in lines:
            raise ValueError(
                f"{where}: id {scenario.id!r:.80} stands in line {lines[scenario.id]} too"
            )
        lines[scenario.id] = line
        if labels:
            scenario.check_labels(labels, where)
        scenarios.append(scenario)
    if not scenarios:
        raise ValueError(f"{path.name} holds no scenarios")
    return ScenarioFile(scenarios, settings.get("reviewer", {}), settings.get("prices", {}))


def scenarios_from_labelled(
    examples: Sequence[LabelledText], out_of_scope: Sequence[str] = ()
) -> list[Scenario]:
    """A scenario a text, with a user who has nothing to add.

    Args:
        examples: See ``dataset.read_labelled``; the label is what is right.
        out_of_scope: Texts that no label fits.
    """
    return [
        *(Scenario(id=f"line {e.line}", text=e.text, gold=e.label) for e in examples),
        *(
            Scenario(id=f"out of scope {i}", text=text, gold=None)
            for i, text in enumerate(out_of_scope, start=1)
        ),
    ]


def _yaml_rows(path: Path) -> tuple[dict[str, Any], list[tuple[int, object]]]:
    content, lines = yaml_lines(read_text(path), path.name)
    keys = ("scenarios", "reviewer", "prices")
    if not isinstance(content, dict) or not isinstance(content.get("scenarios"), list):
        raise ValueError(f"{path.name}: expected a mapping with a list under `scenarios`")
    for key in content:
        if key not in keys:
            raise ValueError(f"{path.name}: unknown key {key!r:.80}; valid keys: {', '.join(keys)}")
    rows = content.pop("scenarios")
    return content, list(zip(lines["scenarios"], rows, strict=True))


def _jsonl_rows(path: Path) -> Iterator[tuple[int, object]]:
    text = read_text(path, limit=LONGEST_JSONL)
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, from_json(content, f"{path.name}, line {line}")
