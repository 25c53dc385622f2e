"""What the head of an adapter answers: how many classes, their names, and that they are classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bayeslora_tool.artifacts.adapter_config import FILE_NAME as CONFIG_NAME
from bayeslora_tool.artifacts.backbone_model import HEADS
from bayeslora_tool.artifacts.manifest import FILE_NAME, MAX_LABELS, Manifest
from bayeslora_tool.documents import read_document
from bayeslora_tool.text import check_label

# Ends of transformers' classes with a head of the same names, for something else.
_OTHER_TASKS = ("ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering")


def head_size(shapes: Mapping[str, tuple[int, ...]], folder: Path) -> int:
    """Outputs of the head that an adapter brings.

    Args:
        shapes: Of its tensors, by name.
        folder: Of the adapter, for the message.

    Raises:
        ValueError: It brings none.
    """
    heads = [
        shape[0]
        for key, shape in sorted(shapes.items())
        if "lora_" not in key and len(shape) == 2 and {*HEADS} & {*key.split(".")}
    ]
    if not heads:
        raise ValueError(
            f"{folder} holds no trained classification head (classifier or score), so its labels "
            f"would be random; save it with task_type='SEQ_CLS' or modules_to_save=['classifier'], "
            f"on a backbone whose head has such a name (BART's, T5's and XLNet's have not)"
        )
    return heads[-1]


def check_labels(
    manifest: Manifest | None, labels: Sequence[str] | None, n_labels: int, folder: Path
) -> tuple[str, ...]:
    """Names of the classes of an adapter on disk.

    Args:
        manifest: Of the adapter, if it has one; then it names them.
        labels: That a caller named.
        n_labels: How many there are.
        folder: Of the adapter.

    Raises:
        ValueError: The caller's are others than the manifest's, or as :func:`checked_labels`.
    """
    if manifest is not None and labels is not None and tuple(labels) != manifest.labels:
        what = "labels" if manifest.choices is None else "choices"
        raise ValueError(f"`{what}` differ from those of {folder / FILE_NAME}; leave {what}= out")
    return checked_labels(manifest.labels if manifest else labels, n_labels, str(folder))


def checked_labels(labels: Sequence[str] | None, n_labels: int, source: str) -> tuple[str, ...]:
    """Names of the classes of a head.

    Args:
        labels: None takes LABEL_0 and so on.
        n_labels: Outputs of the head.
        source: For messages.

    Raises:
        ValueError: They do not fit the head, or it is none of a classifier.
    """
    if n_labels < 2:
        raise ValueError(
            f"the head of {source} has one output: a regression, which has no label to doubt; "
            f"an adapter with at least two classes is needed"
        )
    if n_labels > MAX_LABELS:
        raise ValueError(
            f"the head of {source} has {n_labels} outputs, at most {MAX_LABELS} are read"
        )
    if isinstance(labels, str):
        raise TypeError(f"`labels` (={labels!r:.80}) must be a list of names, not one string")
    names = labels or [f"LABEL_{i}" for i in range(n_labels)]
    for i, name in enumerate(names):
        check_label(name, f"labels[{i}]")
    if len(names) != n_labels or len(set(names)) != n_labels:
        raise ValueError(
            f"the head of {source} has {n_labels} classes, but {len(set(names))} different labels "
            f"are named; give one name a class, in the order of training"
        )
    return tuple(names)


def check_folders_exclusive(*folders: Path) -> None:
    """:func:`check_exclusive` of each ``config.json`` that is there."""
    for file in (folder / "config.json" for folder in folders):
        content = read_document(file) if file.is_file() else {}
        if isinstance(content, dict):
            check_exclusive(content.get("problem_type"), str(file))


def check_exclusive(problem_type: object, source: str) -> None:
    """See that a model's labels exclude each other.

    Args:
        problem_type: Of its configuration.
        source: For the message.

    Raises:
        ValueError: They do not.
    """
    if problem_type not in (None, "single_label_classification"):
        raise ValueError(
            f"{source}: `problem_type` (={problem_type!r:.80}) has no labels that exclude each "
            f"other, but the probabilities here are those of one label in several; an adapter "
            f"trained with problem_type='single_label_classification' is needed"
        )


def check_task_of_head(backbone: Path, adapter: Path) -> None:
    """See that an adapter which names no task has a head for texts, as far as can be told.

    Shapes and names of a head are alike for several tasks.

    Args:
        backbone: Its folder.
        adapter: Its folder.

    Raises:
        ValueError: A ``config.json`` is of a model for another task.
    """
    for file in (folder / "config.json" for folder in (adapter, backbone)):
        content = read_document(file) if file.is_file() else {}
        names = content.get("architectures") if isinstance(content, dict) else None
        for name in names if isinstance(names, list) else []:
            if str(name).endswith(_OTHER_TASKS):
                raise ValueError(
                    f"{adapter / CONFIG_NAME} names no `task_type`, and {file} is of a model for "
                    f"another task (={name!r:.80}) than text classification, so the head is likely "
                    f"one for that; if it was trained to classify texts, write "
                    f'"task_type": "SEQ_CLS" into {CONFIG_NAME}'
                )
