from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.training.dataset import LabelledText, read_labelled
from bayeslora_tool.training.recipe import Recipe, load_recipe, read_training_data
from bayeslora_tool.training.typos import mistype_one, mistype_share
from tests.training.test_dataset import write


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
        with pytest.raises(
            ValueError, match="unknown recipe 'x'; bundled: intents, intents-clean, sentiment"
        ):
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

        from bayeslora_tool.artifacts.backbone_model import load_with_new, quiet
        from bayeslora_tool.inference.network import ClassificationHead
        from bayeslora_tool.inference.posterior import AdapterPosterior
        from bayeslora_tool.training.new_adapter import lora_config
        from bayeslora_tool.training.trainer import _NoisyTrainer

        backbone, new = load_with_new(tiny_backbone, ["a", "b"])
        with quiet():
            model = get_peft_model(backbone, lora_config(Recipe(), backbone, new))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        trainer = _NoisyTrainer(
            posterior=AdapterPosterior(model, dropout=0.5),
            head=ClassificationHead(),
            head_learning_rate=1.0,
            model=model,
            args=TrainingArguments(report_to="none", output_dir=str(tmp_path), use_cpu=True),
        )
        inputs = {
            "input_ids": torch.tensor([[101, 2204, 102]] * 4),
            "attention_mask": torch.ones(4, 3, dtype=torch.long),
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

    def test_slips_are_others_in_each_epoch(
        self, tiny_backbone: Path, tiny_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from bayeslora_tool.training import trainer

        seen: list[tuple[str, str]] = []  # seed and what became of the text

        def spy(text: str, share: float, seed: str) -> str:
            typed = mistype_one(text, share, seed)
            seen.append((seed, typed))
            return typed

        monkeypatch.setattr(trainer, "mistype_one", spy)
        recipe = Recipe(backbone=str(tiny_backbone), revision=None, epochs=2, typos=1.0, seed=3)
        data = read_training_data(recipe, *tiny_files)
        clf = trainer.train_adapter(recipe, data, tmp_path / "out")
        places = range(len(data.train))
        assert {s for s, _ in seen} == {f"3 {epoch} {i}" for epoch in (0, 1) for i in places}
        first, second = ({t for s, t in seen if s.split()[1] == epoch} for epoch in "01")
        assert not first & {e.text for e in data.train}
        assert len(first & second) < len(first) / 2

        assert clf.manifest is not None
        typed = mistype_share([e.text for e in data.held_out], 1.0, 3)
        right = [
            p.label == e.label
            for p, e in zip(
                clf.predict(typed, estimator="deterministic"), data.held_out, strict=True
            )
        ]
        assert clf.manifest.metrics["accuracy_mistyped"] == pytest.approx(np.mean(right))
        assert "a typing error in each text" in (tmp_path / "out" / "README.md").read_text()

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

    def test_a_text_the_backbone_cannot_read_is_found_before_training(
        self, tiny_backbone: Path, tiny_files: Any, tmp_path: Path
    ) -> None:
        from bayeslora_tool.training.trainer import train_adapter

        recipe = Recipe(backbone=str(tiny_backbone), revision=None)
        data = read_training_data(recipe, *tiny_files)
        unseen = LabelledText("\N{ETHIOPIC SYLLABLE HA}", "good", 9)
        for part, what in (("train", "training file"), ("held_out", "held-out file")):
            spoilt = replace(data, **{part: [*getattr(data, part), unseen]})
            with pytest.raises(ValueError, match=f"{what}, line 9: the backbone's tokenizer reads"):
                train_adapter(recipe, spoilt, tmp_path / part)
            assert not list((tmp_path / part).glob("checkpoints/checkpoint-*"))

    def test_every_long_stage_says_how_far_it_is(
        self, tiny_backbone: Path, tiny_files: Any, tmp_path: Path
    ) -> None:
        from bayeslora_tool.training.trainer import train_adapter

        recipe = Recipe(backbone=str(tiny_backbone), revision=None, epochs=1)
        seen: list[list[Any]] = []

        @contextmanager
        def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
            seen.append([what, total, 0])

            def advance(n: int) -> None:
                seen[-1][2] += n

            yield advance

        data = read_training_data(recipe, *tiny_files)
        train_adapter(recipe, data, tmp_path / "out", progress=progress)
        assert [what for what, _, _ in seen] == [
            "encoding the training file",
            "encoding the held-out file",
            "distances to the training texts",
            "neighbours among the training texts",
            "words of the held-out texts",
            "measuring",
        ]
        assert [total for _, total, _ in seen] == [14, 6, 16 + 6, 16, 6, 6]  # two: of each label
        assert all(done == total for _, total, done in seen)

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
@pytest.mark.slow
def test_accuracy_of_the_bundled_sentiment_adapter(shared_data: Path, sentiment: Any) -> None:
    """The floor that the model card claims, on GLUE's dev set (872 texts)."""
    from bayeslora_tool.training.packaging import measure

    labels = {"0": "negative", "1": "positive"}
    examples = read_labelled(
        shared_data / "sst2" / "glue_dev.tsv", text_column="sentence", labels=labels
    )
    metrics = measure(sentiment, examples, n_draws=2)
    assert metrics["n"] == 872
    assert metrics["accuracy_deterministic"] >= 0.88
    assert abs(metrics["accuracy_deterministic"] - metrics["accuracy_monte_carlo"]) <= 0.01


@pytest.mark.slow
def test_accuracy_of_the_bundled_intents_adapter(shared_data: Path) -> None:
    """As the README claims, on the 4,500 in-scope texts of CLINC150's test part."""
    data = json.loads((shared_data / "clinc150" / "data_full.json").read_text())
    texts, gold = zip(*data["test"], strict=True)
    clf = BayesLoRAClassifier.from_pretrained("intents")
    found = clf.predict(list(texts), estimator="deterministic")
    right = sum(p.label == label for p, label in zip(found, gold, strict=True))
    assert len(gold) == 4500
    assert right / len(gold) >= 0.96


class TestBalanced:
    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        """Eleven texts of one label to one of the other; as many of each held out."""
        things = (
            "film",
            "day",
            "house",
            "car",
            "plan",
            "dog",
            "book",
            "song",
            "cake",
            "trip",
            "hat",
        )
        good = [f"a good {thing} and a {other}\tgood" for thing in things for other in things[:4]]
        bad = [f"a bad {thing}\tbad" for thing in things[:4]]
        held = [f"the {word} {thing}\t{word}" for thing in things for word in ("good", "bad")]
        return (
            write(tmp_path, "t.tsv", "\n".join(["text\tlabel", *good, *bad])),
            write(tmp_path, "h.tsv", "\n".join(["text\tlabel", *held])),
        )

    def test_rare_labels_are_told_of(self, files: Any, caplog: Any) -> None:
        read_training_data(Recipe(), *files)
        assert "t.tsv: 44 texts have the label 'good' and 4 the label 'bad'" in caplog.text
        caplog.clear()
        read_training_data(Recipe(balanced=True), *files)
        assert not caplog.text

    def test_the_loss_is_the_mean_of_each_texts_times_its_weight(
        self, tiny_backbone: Path, tmp_path: Path
    ) -> None:
        from peft import get_peft_model
        from transformers import TrainingArguments

        from bayeslora_tool.artifacts.backbone_model import load_with_new, quiet
        from bayeslora_tool.inference.network import ClassificationHead
        from bayeslora_tool.inference.posterior import AdapterPosterior
        from bayeslora_tool.training.new_adapter import lora_config
        from bayeslora_tool.training.trainer import _NoisyTrainer

        with quiet():
            backbone, new = load_with_new(tiny_backbone, ["a", "b"])
            model = get_peft_model(backbone, lora_config(Recipe(), backbone, new))
        trainer = _NoisyTrainer(
            posterior=AdapterPosterior(model, dropout=0.5),  # of an adapter that is still nothing
            head=ClassificationHead(),
            head_learning_rate=1.0,
            class_weights=torch.tensor([3.0, 0.5]),
            model=model,
            args=TrainingArguments(
                report_to="none", output_dir=str(tmp_path), use_cpu=True, label_smoothing_factor=0.1
            ),
        )
        ids, labels = (
            torch.tensor([[101, 2204, 102], [101, 2919, 102], [101, 2143, 102]]),
            [0, 1, 1],
        )
        with torch.inference_mode():
            log_p = model.eval()(input_ids=ids).logits.log_softmax(-1).numpy()
        of_texts = [
            -(0.95 * row[k] + 0.05 * row[1 - k]) for row, k in zip(log_p, labels, strict=True)
        ]
        expected = np.mean([w * loss for w, loss in zip([3, 0.5, 0.5], of_texts, strict=True)])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": torch.tensor(labels),
        }
        got = trainer.compute_loss(model.train(), inputs).item()
        assert got == pytest.approx(float(expected), rel=1e-5)

    def test_each_text_weighs_inversely_to_its_labels_share(
        self, tiny_backbone: Path, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The loss is the mean of those of the labels: as if each had as many texts."""
        from bayeslora_tool.training import trainer

        seen: list[Any] = []

        class Spy(trainer._NoisyTrainer):  # type: ignore[misc]
            def __init__(self, **arguments: Any) -> None:
                seen.append(arguments["class_weights"])
                super().__init__(**arguments)

        monkeypatch.setattr(trainer, "_NoisyTrainer", Spy)
        recipe = Recipe(backbone=str(tiny_backbone), revision=None, epochs=1, balanced=True)
        trainer.train_adapter(recipe, read_training_data(recipe, *files), tmp_path / "out")
        expected = compute_class_weight("balanced", classes=np.arange(2), y=[0] * 4 + [1] * 44)
        np.testing.assert_allclose(seen[0], expected, rtol=1e-6)
