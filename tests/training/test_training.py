from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.training.dataset import read_labelled, read_texts
from bayeslora_tool.training.recipe import Recipe, load_recipe, read_training_data


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.tsv", 'text\tlabel\nsay "hi\tyes\nplain\tno\n'),
            ("a.csv", 'label,text\nyes,"say ""hi"\nno,plain\n'),
            (
                "a.jsonl",
                '{"text": "say \\"hi", "label": "yes"}\n\n{"text": "plain", "label": "no"}\n',
            ),
        ],
    )
    def test_three_kinds_say_the_same(self, tmp_path: Path, name: str, content: str) -> None:
        rows = read_labelled(write(tmp_path, name, content))
        assert [(r.text, r.label) for r in rows] == [('say "hi', "yes"), ("plain", "no")]

    def test_line_numbers_survive_quoted_newlines(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a.csv", 'text,label\n"two\nlines",yes\nplain,no\n')
        assert [r.line for r in read_labelled(file)] == [2, 4]

    def test_labels_are_renamed(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a.tsv", "text\tlabel\nx\t1\n")
        assert read_labelled(file, labels={"0": "no", "1": "yes"})[0].label == "yes"

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.tsv", "", r"a\.tsv is empty"),
            ("a.tsv", "text\tlabel\n", r"a\.tsv holds no examples"),
            ("a.tsv", "sentence\tlabel\nx\t1\n", r"line 1: no column 'text'.*columns: sentence"),
            ("a.tsv", "text\tlabel\nx\t1\ny\n", r"line 3: 1 fields, expected 2"),
            ("a.tsv", "text\tlabel\nx\t1\n \t1\n", r"line 3: `text` is empty"),
            ("a.tsv", "text\tlabel\nx\t\n", r"line 2: `label` is empty"),
            ("a.tsv", "text\tlabel\nx\t2\n", r"line 2: unknown label '2'; known: '0', '1'"),
            ("a.csv", 'text,label\n"x,1\n', r"line 2: "),
            ("a.jsonl", "", r"a\.jsonl holds no examples"),
            ("a.jsonl", '{"text": "x", "label": "1"}\nnot json\n', r"line 2: not JSON"),
            ("a.jsonl", "[1]\n", r"line 1: expected an object"),
            ("a.jsonl", '{"text": "x"}\n', r"line 1: no key 'label'; keys: text"),
            ("a.jsonl", '{"text": "a\\u0000b", "label": "1"}\n', r"line 1: `text` holds a NUL"),
            ("a.jsonl", '{"text": "\\ud83d", "label": "1"}\n', r"line 1: `text` holds a lone surr"),
            ("a.jsonl", '{"text": "x", "label": null}\n', r"line 1: `label` must be .* got null"),
            ("a.jsonl", '{"text": "x", "label": true}\n', r"line 1: `label` must be .* got true"),
            ("a.jsonl", '{"text": "x", "label": ["1"]}\n', r"line 1: `label` must be .* got \["),
            ("a.tsv", "text\ttext\tlabel\nx\ty\t1\n", r"line 1: two columns 'text' in the header"),
            ("a.xlsx", "x", r"unknown file type '\.xlsx'; use \.tsv, \.csv or \.jsonl"),
        ],
    )
    def test_bad_ones_name_the_line(
        self, tmp_path: Path, name: str, content: str, message: str
    ) -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            read_labelled(write(tmp_path, name, content), labels={"0": "no", "1": "yes"})

    @pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
    def test_another_encoding_names_the_file(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes("text\tlabel\ncafé\t1\n".encode("latin-1"))
        with pytest.raises(ValueError, match=rf"{name} is not UTF-8 .*save it as UTF-8"):
            read_labelled(tmp_path / name)

    def test_text_that_is_no_string(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a.jsonl", '{"text": 3, "label": "1"}\n')
        with pytest.raises(TypeError, match="line 1: `text` must be a str, got int"):
            read_labelled(file)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_labelled(tmp_path / "none.tsv")

    def test_texts_alone(self, tmp_path: Path) -> None:
        assert read_texts(write(tmp_path, "a.txt", "one\ntwo\n")) == ["one", "two"]
        file = write(tmp_path, "a.tsv", "id\tsaid\n1\tone\n2\ttwo\n")
        assert read_texts(file, text_column="said") == ["one", "two"]
        assert read_texts(write(tmp_path, "A.TSV", "id\ttext\n1\tone\n")) == ["one"]
        with pytest.raises(ValueError, match="line 2 is empty"):
            read_texts(write(tmp_path, "b.txt", "one\n\ntwo\n"))
        with pytest.raises(ValueError, match=r"c\.json: its lines are no texts"):
            read_texts(write(tmp_path, "c.json", '[{"text": "one"}]'))


class TestData:
    def test_texts_that_recur_in_the_held_out_file_are_dropped(self, tmp_path: Path) -> None:
        train = write(tmp_path, "t.tsv", "text\tlabel\nGood film \tyes\nbad\tno\nfine\tyes\n")
        held = write(tmp_path, "h.tsv", "text\tlabel\ngood film\tyes\n")
        data = read_training_data(Recipe(), train, held)
        assert [e.text for e in data.train] == ["bad", "fine"]
        assert (data.dropped, data.labels) == (1, ("no", "yes"))

    def test_one_class_is_refused(self, tmp_path: Path) -> None:
        train = write(tmp_path, "t.tsv", "text\tlabel\nx\tyes\ny\tyes\n")
        held = write(tmp_path, "h.tsv", "text\tlabel\nz\tyes\n")
        with pytest.raises(ValueError, match=r"t\.tsv holds 1 class\(es\) \['yes'\]"):
            read_training_data(Recipe(), train, held)

    def test_held_out_label_without_training_texts(self, tmp_path: Path) -> None:
        train = write(tmp_path, "t.tsv", "text\tlabel\nx\tyes\ny\tno\n")
        held = write(tmp_path, "h.tsv", "text\tlabel\nz\tyes\nw\tmaybe\n")
        with pytest.raises(ValueError, match=r"h\.tsv, line 3: label 'maybe' has no text in t\.t"):
            read_training_data(Recipe(), train, held)

    def test_class_order_is_the_recipes(self, tiny_files: Any) -> None:
        recipe = Recipe(labels={"good": "good", "bad": "bad"})
        assert read_training_data(recipe, *tiny_files).labels == ("good", "bad")


class TestRecipe:
    @pytest.mark.parametrize("name", ["sentiment", "intents"])
    def test_bundled_ones_made_the_bundled_adapters(self, name: str) -> None:
        from bayeslora_tool.artifacts.manifest import bundled_adapters, read_manifest

        manifest = read_manifest(bundled_adapters()[name])
        assert manifest is not None
        recorded = Recipe(**manifest.recipe, card=load_recipe(name).card)
        assert recorded == load_recipe(name)

    def test_unknown_key(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"unknown key `lr`; valid keys: alpha, .*learning_ra"):
            load_recipe(write(tmp_path, "r.yaml", "lr: 0.1\n"))

    def test_unknown_name(self) -> None:
        with pytest.raises(ValueError, match="unknown recipe 'x'; bundled: intents, sentiment"):
            load_recipe("x")


class TestTraining:
    def test_learns_and_records(self, tiny_adapter: Path, tiny: Any) -> None:
        manifest = json.loads((tiny_adapter / "bayeslora.json").read_text())
        assert manifest["metrics"]["accuracy_deterministic"] == 1
        assert manifest["metrics"]["n"] == 6
        assert manifest["recipe"]["rank"] == 4
        assert not (tiny_adapter / "checkpoints").exists()
        card = (tiny_adapter / "README.md").read_text()
        assert "accuracy, deterministic pass | 1.0000" in card
        texts = ["a good, fine, lovely story", "a bad, poor, dreadful story"]
        good, bad = tiny.predict(texts, estimator="deterministic")
        assert (good.label, bad.label) == ("good", "bad")

    def test_backbone_dropout_is_off_and_adapter_noise_on(
        self, tiny_backbone: Path, tmp_path: Path
    ) -> None:
        """Two training losses under the same masks are equal; under fresh masks they differ."""
        from peft import get_peft_model
        from transformers import TrainingArguments

        from bayeslora_tool.artifacts.loading import load_backbone, quiet
        from bayeslora_tool.inference.posterior import AdapterPosterior
        from bayeslora_tool.training.trainer import _lora_config, _NoisyTrainer

        with quiet():
            model = get_peft_model(load_backbone(tiny_backbone, ["a", "b"]), _lora_config(Recipe()))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        trainer = _NoisyTrainer(
            posterior=AdapterPosterior(model, dropout=0.5),
            head_learning_rate=1.0,
            model=model,
            args=TrainingArguments(report_to="none", output_dir=str(tmp_path), use_cpu=True),
        )
        inputs = {
            "input_ids": torch.tensor([[101, 2204, 102]] * 4),
            "labels": torch.tensor([0] * 4),
        }

        def loss(seed: int, *, training: bool = True) -> float:
            torch.manual_seed(seed)
            model.train(training)
            return float(trainer.compute_loss(model, dict(inputs)).detach())

        assert loss(0) == loss(0)
        assert loss(0) != loss(1)
        assert loss(0, training=False) == loss(1, training=False)

    def test_smoothed_labels_bound_the_confidence(
        self, tiny_adapter: Path, tiny: Any, tiny_files: Any, tmp_path: Path
    ) -> None:
        """At the optimum it is the smoothed target: 0.1 of a label and 0.9 of an even split."""
        from bayeslora_tool.training.trainer import train_adapter

        trained = json.loads((tiny_adapter / "bayeslora.json").read_text())["recipe"]
        recipe = Recipe(**trained | {"label_smoothing": 0.9})
        data = read_training_data(recipe, *tiny_files)
        smooth = train_adapter(recipe, data, tmp_path / "out")
        texts = [e.text for e in data.train]
        sure, less_sure = (
            float(np.mean([p.confidence for p in clf.predict(texts, estimator="deterministic")]))
            for clf in (tiny, smooth)
        )
        assert sure > 0.7
        assert abs(less_sure - 0.55) < 0.05

    def test_starts_from_an_adapter_that_fits(
        self, tiny_adapter: Path, tiny: Any, tiny_files: Any, tmp_path: Path
    ) -> None:
        from bayeslora_tool.training.trainer import train_adapter

        trained = json.loads((tiny_adapter / "bayeslora.json").read_text())["recipe"]
        still = {"epochs": 1, "learning_rate": 1e-9, "head_learning_rate": 1e-9}
        recipe = Recipe(**trained | still)
        data = read_training_data(recipe, *tiny_files)
        again = train_adapter(recipe, data, tmp_path / "out", start=tiny_adapter)
        texts = [e.text for e in data.train]
        for p, q in zip(tiny.predict(texts), again.predict(texts), strict=True):
            assert abs(p.confidence - q.confidence) < 1e-5
            assert abs(p.variance - q.variance) < 1e-5

        with pytest.raises(ValueError, match="has r = 4, the recipe 8; set the recipe's"):
            train_adapter(replace(recipe, rank=8), data, tmp_path / "b", start=tiny_adapter)
        swapped = replace(data, labels=data.labels[::-1])
        with pytest.raises(ValueError, match="can go on with its own labels only"):
            train_adapter(recipe, swapped, tmp_path / "c", start=tiny_adapter)

    def test_resumes_from_a_checkpoint(
        self, tiny_backbone: Path, tiny_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from bayeslora_tool.training import trainer

        recipe = Recipe(backbone=str(tiny_backbone), revision=None, epochs=3, batch_size=4)
        data = read_training_data(recipe, *tiny_files)
        output = tmp_path / "resumed"
        with pytest.raises(FileNotFoundError, match="no checkpoint below"):
            trainer.train_adapter(recipe, data, output, resume=True)

        with monkeypatch.context() as patch:  # the power fails before anything is saved
            patch.setattr(trainer, "_save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                trainer.train_adapter(replace(recipe, epochs=2), data, output)
        assert list(output.glob("checkpoints/checkpoint-*"))
        with pytest.raises(FileExistsError, match=r"is not empty \(checkpoints\).*--resume"):
            trainer.train_adapter(recipe, data, output)

        clf = trainer.train_adapter(recipe, data, output, resume=True)
        assert clf.predict(["a good film"])[0].variance > 0
        with pytest.raises(FileExistsError, match="holds an adapter already"):
            trainer.train_adapter(recipe, data, output)

    def test_touches_nothing_that_lies_there(self, tiny_files: Any, tmp_path: Path) -> None:
        from bayeslora_tool.training.trainer import train_adapter

        (tmp_path / "README.md").write_text("mine")
        with pytest.raises(FileExistsError, match=r"is not empty \(README\.md\)"):
            train_adapter(Recipe(), read_training_data(Recipe(), *tiny_files), tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["README.md"]
        assert (tmp_path / "README.md").read_text() == "mine"

    @pytest.mark.parametrize("noise", ["input token", "rank token"])
    def test_other_noise_trains_and_loads_back(
        self, tiny_backbone: Path, tiny_files: Any, tmp_path: Path, noise: str
    ) -> None:
        from bayeslora_tool.training.trainer import train_adapter

        placement, scope = noise.split()
        recipe = Recipe(
            backbone=str(tiny_backbone),
            revision=None,
            epochs=1,
            placement=placement,  # type: ignore[arg-type]
            scope=scope,  # type: ignore[arg-type]
        )
        train_adapter(recipe, read_training_data(recipe, *tiny_files), tmp_path / "out")
        clf = BayesLoRAClassifier.from_pretrained(tmp_path / "out")
        assert (clf.posterior.placement, clf.posterior.scope) == (placement, scope)
        if placement == "input":  # then PEFT alone knows the rate too
            (tmp_path / "out" / "bayeslora.json").unlink()
            plain = BayesLoRAClassifier.from_pretrained(tmp_path / "out")
            assert plain.posterior.dropout == recipe.dropout


@pytest.mark.long
def test_accuracy_of_the_bundled_sentiment_adapter(shared_data: Path, sentiment: Any) -> None:
    """The floor that the model card claims, on GLUE's dev set (872 texts)."""
    from bayeslora_tool.training.packaging import measure

    labels = {"0": "negative", "1": "positive"}
    examples = read_labelled(
        shared_data / "sst2" / "glue_dev.tsv", text_column="sentence", labels=labels
    )
    metrics = measure(sentiment, examples, n_draws=2)
    assert metrics["n"] == 872
    assert metrics["accuracy_deterministic"] >= 0.89
    assert abs(metrics["accuracy_deterministic"] - metrics["accuracy_monte_carlo"]) <= 0.01


@pytest.mark.long
def test_accuracy_of_the_bundled_intents_adapter(shared_data: Path) -> None:
    """As the README claims, on the 4,500 in-scope texts of CLINC150's test part."""
    data = json.loads((shared_data / "clinc150" / "data_full.json").read_text())
    texts, gold = zip(*data["test"], strict=True)
    clf = BayesLoRAClassifier.from_pretrained("intents")
    found = clf.predict(list(texts), estimator="deterministic")
    right = sum(p.label == label for p, label in zip(found, gold, strict=True))
    assert len(gold) == 4500
    assert right / len(gold) >= 0.96
