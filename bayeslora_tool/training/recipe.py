"""What to train and on what: recipes and checked data. Needs no torch: bad data fails at once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from bayeslora_tool.artifacts.adapter_config import Names, Rank
from bayeslora_tool.artifacts.backbone import HubName, Revision
from bayeslora_tool.artifacts.manifest import FILE_NAME, MAX_LABELS, Manifest, Verbalizer
from bayeslora_tool.settings import Label, parse, read_settings
from bayeslora_tool.text import normal_text
from bayeslora_tool.training.dataset import LabelledText, read_labelled

logger = logging.getLogger(__name__)

IMBALANCE = 10  # texts of the most frequent label to one of the rarest, from where training warns
DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Column = Annotated[str, Field(max_length=200)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Recipe:
    """How to train an adapter; ``configs/recipes/`` holds those of the bundled ones.

    Attributes:
        backbone: Hub name or folder of the frozen model.
        revision: Commit of the hub repository.
        labels: From the label as written in the files to its name, in the order of the classes;
            None takes what the training file holds, sorted.
        choices: From each label's name to what a language model writes for it, in order: it learns
            to choose, and gets no head. None trains a classifier.
        template: The prompt of ``choices``, with ``{text}`` once.
        length_normalized: Whether a choice's log-probability is divided by its number of tokens.
        text_column, label_column: Columns (or JSON keys) of the files.
        rank, alpha: LoRA's r and alpha; the update is scaled by alpha / r.
        target_modules: Layers to adapt: names, or "all-linear".
        dropout, placement, scope: The noise, in training and at inference; see ``posterior.py``.
        learning_rate, head_learning_rate: Peak rates of AdamW for adapter and head; a head at 0
            stays random.
        weight_decay: Of AdamW.
        label_smoothing: Share of each target spread evenly over all labels.
        balanced: Whether rare labels count as much as frequent ones: in the loss each text weighs
            inversely to its label's share, and the best epoch is that of the best mean recall.
        typos: Share of the training texts that is mistyped (``typos.py``), anew in each epoch, with
            one slip or two; the best epoch is then that of the held-out texts with and without.
        group_by_length: Batches of texts alike in length: two or three times as fast where lengths
            differ, but cost 150 classes half a point of accuracy.
        epochs: At most; training stops after ``patience`` epochs without better accuracy on the
            held-out texts, and the best epoch is kept.
        batch_size: Texts a step (and device).
        warmup: Share of the steps in which the rate rises; it then falls linearly to 0.
        max_tokens: Longer training texts are cut here.
        seed: Of initialisation, order and noise.
        card: What the model card says of data, licence and limits (Markdown).
    """

    backbone: HubName = DEFAULT_BACKBONE
    revision: Revision | None = DEFAULT_REVISION
    labels: Annotated[dict[Column, Label], Field(max_length=MAX_LABELS)] | None = None
    choices: Annotated[dict[Label, Verbalizer], Field(max_length=MAX_LABELS)] | None = None
    template: str | None = None
    length_normalized: bool = False
    text_column: Column = "text"
    label_column: Column = "label"
    rank: Rank = 16
    alpha: Count = 32
    target_modules: Literal["all-linear"] | Annotated[Names, Field(min_length=1)] = "all-linear"
    dropout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    placement: Literal["rank", "input"] = "rank"
    scope: Literal["sequence", "token"] = "sequence"
    learning_rate: Positive = 1e-3
    head_learning_rate: Annotated[float, Field(ge=0)] = 4e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    balanced: bool = False
    typos: Annotated[float, Field(ge=0, le=1)] = 0.0
    group_by_length: bool = False
    epochs: Count = 5
    patience: Count = 2
    batch_size: Count = 32
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06
    max_tokens: Count = 128
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    card: Annotated[str, Field(max_length=100_000)] = "Data, licence and limits: to be filled in."


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a bundled recipe by name, or a YAML file.

    Raises:
        ValueError: Unknown name or key, value out of range.
        FileNotFoundError: No such file.
    """
    content, source = read_settings(name_or_path, kind="recipes")
    return parse(Recipe, content, source=f"recipe {source}", strict=True)


def read_as_trained(
    manifest: Manifest | None,
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
) -> list[LabelledText]:
    """Read labelled texts with the columns and label names that an adapter was trained with.

    Args:
        manifest: The adapter's; None takes the default columns and labels as written.
        path: See ``dataset.read_labelled``, also for what it raises.
        text_column: Instead of the adapter's.
        label_column: Instead of the adapter's.
    """
    trained = manifest.recipe if manifest else {}
    recipe = parse(Recipe, trained, source=f"`recipe` of {FILE_NAME}", strict=True)
    return read_labelled(
        path,
        text_column=text_column or recipe.text_column,
        label_column=label_column or recipe.label_column,
        labels=recipe.labels,
    )


@plain_dataclass(frozen=True)
class TrainingData:
    """Checked examples; ``labels`` in class order, ``dropped`` training texts that recur."""

    train: list[LabelledText]
    held_out: list[LabelledText]
    labels: tuple[str, ...]
    dropped: int


def read_training_data(recipe: Recipe, train: str | Path, held_out: str | Path) -> TrainingData:
    """Read and check both files; needs no model.

    Training texts that recur in the held-out file (but for case and outer space) are dropped, so
    that held-out accuracy is honest.

    Raises:
        FileNotFoundError, TypeError, ValueError: See ``dataset.read_labelled``; also when the
            training file holds fewer than two classes, or the held-out file a label that the
            training file lacks; or a label that none of the recipe's choices has. Names file and
            line.
    """
    files = [
        read_labelled(
            path,
            text_column=recipe.text_column,
            label_column=recipe.label_column,
            labels=recipe.labels,
        )
        for path in (train, held_out)
    ]
    seen = {normal_text(example.text) for example in files[1]}
    kept = [example for example in files[0] if normal_text(example.text) not in seen]
    counts = Counter(example.label for example in kept)
    if len(counts) < 2:
        raise ValueError(
            f"{Path(train).name} holds {len(counts)} class(es) {list(counts)} apart from texts "
            f"that recur in {Path(held_out).name}; a classifier needs at least two"
        )
    for example in files[1]:
        if example.label not in counts:
            raise ValueError(
                f"{Path(held_out).name}, line {example.line}: label {example.label!r} has no text "
                f"in {Path(train).name}"
            )
    if recipe.choices is not None:
        _check_choices(recipe.choices, zip((train, held_out), (kept, files[1]), strict=True))
    (often, most), (rare, fewest) = counts.most_common()[0], counts.most_common()[-1]
    if most > IMBALANCE * fewest and not recipe.balanced:
        logger.warning(
            "%s: %d texts have the label %r and %d the label %r; the rare ones will hardly be "
            "learnt unless they count as much (`balanced: true` in the recipe, or --balanced)",
            Path(train).name, most, often, fewest, rare,
        )  # fmt: skip
    names = tuple(recipe.labels.values()) if recipe.labels else tuple(sorted(counts))
    if recipe.choices is not None:
        names = tuple(recipe.choices)
    if missing := [name for name in names if name not in counts]:
        raise ValueError(f"{Path(train).name} has no text with label {missing[0]!r}")
    return TrainingData(kept, files[1], names, len(files[0]) - len(kept))


def _check_choices(
    choices: Mapping[str, str], files: Iterable[tuple[str | Path, Sequence[LabelledText]]]
) -> None:
    for path, examples in files:
        for example in examples:
            if example.label not in choices:
                raise ValueError(
                    f"{Path(path).name}, line {example.line}: label {example.label!r:.80} is none "
                    f"of `choices` ({', '.join([*choices][:5])}); name what the model writes for it"
                )
