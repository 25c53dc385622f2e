"""Makes what plain PEFT saved an adapter of this package, which can be checked and calibrated."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bayeslora_tool.artifacts.adapter_config import read_adapter_config
from bayeslora_tool.artifacts.backbone import find_backbone, tokenizer_files
from bayeslora_tool.artifacts.loading import load_adapter
from bayeslora_tool.artifacts.manifest import ADAPTER_FILES, FILE_NAME, find_adapter_folder
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.inference.posterior import AdapterPosterior, Placement, Scope
from bayeslora_tool.language.prompts import asked_for
from bayeslora_tool.progress import Progress, silent
from bayeslora_tool.settings import parse
from bayeslora_tool.training.dataset import LabelledText, read_labelled
from bayeslora_tool.training.packaging import package_adapter
from bayeslora_tool.training.recipe import Recipe, TrainingData


def adopt_adapter(
    name_or_path: str | Path,
    held_out: str | Path,
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    choices: Mapping[str, str] | None = None,
    template: str | None = None,
    length_normalized: bool = False,
    train: str | Path | None = None,
    text_column: str = "text",
    label_column: str = "label",
    base: str | Path | None = None,
    dropout: float | None = None,
    placement: Placement = "input",
    scope: Scope = "token",
    progress: Progress = silent,
) -> BayesLoRAClassifier:
    """Copy an adapter and write what belongs to it: fingerprints, golden predictions, references.

    Args:
        name_or_path: Folder or hub id of a PEFT LoRA adapter with a classification head, or of one
            of a language model.
        held_out: File of labelled texts that did not train it, each label at least twice.
        output: New folder.
        labels: Names of the classes, in the order of the head; None takes LABEL_0 and so on.
        choices: By label, what a language model writes for it; this and the next two as in
            ``BayesLoRAClassifier.from_pretrained``.
        template: Its prompt.
        length_normalized: Whether log-probabilities are divided by the number of tokens.
        train: File of the texts that did train it, which texts are later held against. Without it
            every second one of ``held_out`` stands for them.
        text_column: Of both files.
        label_column: Of both files; a label is a name, or the number of its class.
        base: Backbone folder or hub name, instead of the one the adapter names.
        dropout: Rate of the posterior's noise, in (0, 1); None takes the adapter's
            ``lora_dropout``.
        placement: Of the noise; the default is what PEFT trains with.
        scope: Likewise.
        progress: Of each stage, in texts.

    Returns:
        The classifier, loaded back from ``output``.

    Raises:
        FileExistsError: ``output`` is there already.
        FileNotFoundError: No such adapter, backbone or file.
        ValueError: The adapter has a manifest already, or does not load (see ``load_adapter``); no
            dropout is known; a label that is none of the adapter's, or one without texts.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} is there already; choose another folder")
    folder = find_adapter_folder(name_or_path)
    if (folder / FILE_NAME).exists():
        raise ValueError(f"{folder} has a {FILE_NAME} already: it can be calibrated as it is")
    asked = asked_for(choices, template, length_normalized=length_normalized)
    if asked is not None:
        if labels is not None:
            raise ValueError("`labels` are those of `choices`; leave labels= out")
        labels = [*asked.verbalizers]
    config = read_adapter_config(folder, causal=asked is not None)
    if dropout is None and not config.lora_dropout:
        raise ValueError(
            f"{folder} was trained without dropout, so nothing says how much its weights may "
            f"vary; choose a rate, for example dropout=0.1 (--dropout 0.1)"
        )
    rate = config.lora_dropout if dropout is None else dropout
    loaded = load_adapter(
        name_or_path, base=base, labels=labels, device="cpu", causal=asked is not None
    )
    name, revision = (config.base_model_name_or_path, config.revision)
    if base is not None:
        name, revision = str(base), None
    assert name is not None  # or it would not have loaded
    names = {str(i): label for i, label in enumerate(loaded.labels)}
    written = read_labelled(held_out, text_column=text_column, label_column=label_column)
    numbered = {e.label for e in written} <= names.keys()
    recipe = parse(
        Recipe,
        {
            "text_column": text_column,
            "label_column": label_column,
            "backbone": name,
            "revision": revision,
            "labels": names if numbered and not {*loaded.labels} & names.keys() else None,
            "dropout": rate,
            "placement": placement,
            "scope": scope,
        },
        source="the adapter's settings",
    )
    data = _data(recipe, loaded.labels, held_out, train)
    posterior = AdapterPosterior(loaded.model, placement=placement, scope=scope, dropout=rate)
    output.mkdir(parents=True)
    try:
        for file in ADAPTER_FILES:
            shutil.copyfile(folder / file, output / file)
        for path in tokenizer_files(folder):
            shutil.copyfile(path, output / path.name)
        classifier = BayesLoRAClassifier(
            loaded.model, loaded.tokenizer, loaded.labels, posterior, choices=asked
        )
        backbone = find_backbone(name, revision)
        package_adapter(classifier, recipe, data, backbone, output, adopted=True, progress=progress)
    except BaseException:
        shutil.rmtree(output)  # half a folder would be in the way of the next try
        raise
    return BayesLoRAClassifier.from_pretrained(output, base=base)


def _data(
    recipe: Recipe, labels: tuple[str, ...], held_out: str | Path, train: str | Path | None
) -> TrainingData:
    def read(path: str | Path) -> list[LabelledText]:
        found = read_labelled(
            path,
            text_column=recipe.text_column,
            label_column=recipe.label_column,
            labels=recipe.labels,
        )
        for example in found:
            if example.label not in labels:
                raise ValueError(
                    f"{Path(path).name}, line {example.line}: label {example.label!r:.80} is none "
                    f"of the adapter's {len(labels)} ({', '.join(labels[:5])}...); name its "
                    f"classes in the order of its head: labels= (--labels)"
                )
        return found

    ordinary = sorted(read(held_out), key=lambda e: e.label)
    known, kept = (read(train), ordinary) if train else (ordinary[::2], ordinary[1::2])
    if missing := sorted({*labels} - {e.label for e in known}):
        source = Path(train or held_out).name
        raise ValueError(f"{source} has too few texts with label {missing[0]!r}: give at least two")
    return TrainingData(known, kept, labels, dropped=0)
