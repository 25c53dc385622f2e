"""A language model that learns to choose: its loss beside brute force, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bayeslora_tool.graphs.runs import pending, resume, start
from langgraph.checkpoint.memory import InMemorySaver
from torch import Tensor, nn
from transformers import TrainingArguments

from bayeslora_tool import BayesLoRAClassifier, create_escalation_graph, load_preset
from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.artifacts.backbone_model import load_tokenizer
from bayeslora_tool.inference.posterior import AdapterPosterior
from bayeslora_tool.language.choices import reading
from bayeslora_tool.language.prompts import Choices
from bayeslora_tool.training import trainer
from bayeslora_tool.training.new_adapter import new_adapter
from bayeslora_tool.training.recipe import Recipe, read_training_data
from bayeslora_tool.training.trainer import train_adapter
from tests.agents.desk import DONE, Desk, order
from tests.backbones import save_backbone
from tests.scripted_model import calls
from tests.training.test_dataset import write

# Of two tokens and of three, which begin alike, and of one.
CHOICES = {"bad": " poor meal", "good": " poor film a", "odd": " day"}
TEMPLATE = "a {text} play"
TWO = {"bad": " poor meal", "good": " lovely"}
ADJECTIVES = {"good": ["good", "fine", "lovely"], "bad": ["bad", "poor"]}
NOUNS = ["book", "day", "film", "meal", "play"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("llama"), "llama", published=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What is good and what is bad, of things that come in other pairs in the held-out file."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [*product(NOUNS, repeat=2)]
    kept = [
        [
            f"{adjective} {one} {other}\t{label}"
            for one, other in part
            for label, words in ADJECTIVES.items()
            for adjective in words
        ]
        for part in (pairs[::2], pairs[1::2])
    ]
    train, held_out = (
        write(folder, name, "\n".join(["text\tlabel", *rows]))
        for name, rows in zip(("train.tsv", "held_out.tsv"), kept, strict=True)
    )
    return train, held_out


def recipe_of(backbone: Path, **settings: Any) -> Recipe:
    given = {
        "backbone": str(backbone), "revision": None, "choices": TWO, "template": TEMPLATE,
        "rank": 4, "alpha": 8, "learning_rate": 1e-2, "epochs": 6, "patience": 6, "batch_size": 8,
        "dropout": 0.2,
    }  # fmt: skip
    return Recipe(**given | settings)


@pytest.fixture(scope="module")
def trained(
    llama: Path, files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BayesLoRAClassifier]:
    recipe = recipe_of(llama)
    folder = tmp_path_factory.mktemp("trained") / "out"
    return folder, train_adapter(recipe, read_training_data(recipe, *files), folder)


class BruteForce:
    """PEFT's layers with a hook each, a row for each text and choice, no padding."""

    def __init__(self, model: Any, tokenizer: Any, placement: str, scope: str) -> None:
        self.model, self.placement, self.scope = model, placement, scope
        self.tokenizer = tokenizer
        self.layers = {
            name.removesuffix(".lora_A.default"): module
            for name, module in model.named_modules()
            if name.endswith(".lora_A.default")
        }

    def rows(self, texts: list[str]) -> Iterator[tuple[int, list[int], list[list[int]]]]:
        for b, text in enumerate(texts):
            prompt = self.tokenizer(TEMPLATE.replace("{text}", text))["input_ids"]
            whole = [
                self.tokenizer(TEMPLATE.replace("{text}", text) + choice)["input_ids"]
                for choice in CHOICES.values()
            ]
            yield b, prompt, [ids[len(prompt) :] for ids in whole]

    def order(self) -> list[str]:
        """Of the layers, as a pass comes to them."""
        seen: list[str] = []
        with ExitStack() as stack:
            for name, layer in self.layers.items():
                hook = layer.register_forward_hook(lambda m, i, o, name=name: seen.append(name))
                stack.callback(hook.remove)
            self.model(input_ids=torch.tensor([[0, 5]]))
        return seen

    def masks(self, texts: list[str], rate: float, seed: int) -> dict[str, Tensor]:
        """(B, 1 or places, n) of each layer, as torch draws them from this seed."""
        longest = max(len(p) + max(map(len, c)) - 1 for _, p, c in self.rows(texts))
        torch.manual_seed(seed)
        found = {}
        for name in self.order():
            layer = self.layers[name]
            n = layer.out_features if self.placement == "rank" else layer.in_features
            shape = (len(texts), longest if self.scope == "token" else 1, n)
            found[name] = nn.functional.dropout(torch.ones(shape), rate)
        return found

    def log_p(self, texts: list[str], masks: dict[str, Tensor], *, mean: bool) -> Tensor:
        """(B, C), log-probabilities of the choices among each other."""
        scores = []
        for b, prompt, choices in self.rows(texts):
            of_text = []
            for choice in choices:
                with ExitStack() as stack:
                    for name, mask in masks.items():
                        stack.callback(self._hook(name, mask[b]).remove)
                    ids = torch.tensor([prompt + choice[:-1]])
                    logits = self.model(input_ids=ids).logits[0].log_softmax(dim=-1)
                at = range(len(prompt) - 1, len(prompt) + len(choice) - 1)
                score = sum(logits[i, token] for i, token in zip(at, choice, strict=True))
                of_text.append(score / len(choice) if mean else score)
            scores.append(torch.stack(of_text))
        return torch.stack(scores).log_softmax(dim=-1)

    def _hook(self, name: str, mask: Tensor) -> Any:
        def masked(x: Tensor) -> Tensor:
            return x * mask[: x.shape[-2]]

        layer = self.layers[name]
        if self.placement == "rank":
            return layer.register_forward_hook(lambda m, i, h: masked(h))
        return layer.register_forward_pre_hook(lambda m, i: masked(i[0]))


class TestLoss:
    @pytest.mark.parametrize("length_normalized", [False, True])
    @pytest.mark.parametrize("scope", ["sequence", "token"])
    @pytest.mark.parametrize("placement", ["rank", "input"])
    def test_value_and_gradient_are_those_of_a_row_for_each_choice(
        self, llama: Path, tmp_path: Path, placement: Any, scope: Any, length_normalized: bool
    ) -> None:
        """Weighted, smoothed and noisy; each text with a mask of its own."""
        asked = Choices(CHOICES, TEMPLATE, length_normalized)
        recipe = recipe_of(llama, choices=CHOICES, placement=placement, scope=scope)
        torch.manual_seed(0)
        model = new_adapter(recipe, llama, [*CHOICES], asked)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.2)
        posterior = AdapterPosterior(model, placement=placement, scope=scope, dropout=0.3)
        tokenizer = load_tokenizer(llama)
        reader, head = reading(tokenizer, 32, asked)
        weights, smoothing = torch.tensor([2.0, 0.5, 1.0]), 0.1
        texts, labels = ["fine", "bad day lovely lovely book", "good film"], [1, 0, 2]
        noisy = trainer._NoisyTrainer(
            posterior=posterior, head=head, head_learning_rate=1.0, class_weights=weights,
            model=model,
            args=TrainingArguments(
                report_to="none", output_dir=str(tmp_path), use_cpu=True,
                label_smoothing_factor=smoothing,
            ),
        )  # fmt: skip
        rows = [trainer._row(text, k) for text, k in zip(reader.encode(texts), labels, strict=True)]
        torch.manual_seed(7)
        loss = noisy.compute_loss(model.train(), trainer._batch(reader, rows))

        model.eval()
        brute = BruteForce(model, tokenizer, placement, scope)
        log_p = brute.log_p(texts, brute.masks(texts, 0.3, seed=7), mean=length_normalized)
        target = torch.full((3, 3), smoothing / 3)
        target[range(3), labels] += 1 - smoothing
        expected = (-(target * log_p).sum(dim=1) * weights[labels]).mean()
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
        adapter = [p for n, p in model.named_parameters() if "lora_" in n]
        got, wanted = (torch.autograd.grad(value, adapter) for value in (loss, expected))
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)

    def test_no_dropout_of_the_backbone_and_no_noise_when_it_is_measured(
        self, llama: Path, tmp_path: Path
    ) -> None:
        asked = Choices(CHOICES, TEMPLATE)
        model = new_adapter(recipe_of(llama, choices=CHOICES), llama, [*CHOICES], asked)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.2)
        model.config.attention_dropout = 0.5
        reader, head = reading(load_tokenizer(llama), 32, asked)
        noisy = trainer._NoisyTrainer(
            posterior=AdapterPosterior(model, dropout=0.3), head=head, head_learning_rate=1.0,
            model=model,
            args=TrainingArguments(report_to="none", output_dir=str(tmp_path), use_cpu=True),
        )  # fmt: skip
        batch = trainer._batch(reader, [trainer._row(t, 0) for t in reader.encode(["fine"] * 4)])

        def loss(seed: int, *, training: bool) -> float:
            torch.manual_seed(seed)
            return float(noisy.compute_loss(model.train(training), dict(batch)).detach())

        assert loss(0, training=True) == loss(0, training=True)
        assert loss(0, training=True) != loss(1, training=True)
        assert loss(0, training=False) == loss(1, training=False)


class TestTraining:
    def test_it_learns(self, trained: Any, llama: Path, files: Any) -> None:
        folder, clf = trained
        recipe = recipe_of(llama)
        data = read_training_data(recipe, *files)
        asked = Choices(TWO, TEMPLATE)
        torch.manual_seed(0)
        model = new_adapter(recipe, llama, data.labels, asked)
        posterior = AdapterPosterior(model, dropout=0.2)
        before = BayesLoRAClassifier(
            model, load_tokenizer(llama), data.labels, posterior, choices=asked
        )

        def accuracy(classifier: BayesLoRAClassifier) -> float:
            found = classifier.predict([e.text for e in data.held_out], estimator="deterministic")
            right = [p.label == e.label for p, e in zip(found, data.held_out, strict=True)]
            return float(np.mean(right))

        assert accuracy(clf) >= 0.95
        assert accuracy(before) <= 0.7
        assert clf.manifest is not None
        assert clf.manifest.metrics["accuracy_deterministic"] == accuracy(clf)
        assert not (folder / "checkpoints").exists()

    def test_the_folder_says_all_and_loads_back(self, trained: Any) -> None:
        folder, clf = trained
        again = BayesLoRAClassifier.from_pretrained(folder)
        assert again.choices == Choices(TWO, TEMPLATE)
        texts = ["good film", "bad bad meal"]
        for p, q in zip(clf.predict(texts), again.predict(texts), strict=True):
            assert p == q
            assert p.novelty is not None
            assert p.variance > 0
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["task_type"], config["modules_to_save"]) == ("CAUSAL_LM", None)
        manifest = json.loads((folder / "bayeslora.json").read_text())
        assert manifest["choices"]["verbalizers"] == TWO
        assert manifest["recipe"]["template"] == TEMPLATE
        assert len(manifest["golden"]) > 0
        assert TEMPLATE in (folder / "README.md").read_text()

    def test_a_classifiers_folder_speaks_of_no_choices(self, tiny_adapter: Path) -> None:
        manifest = json.loads((tiny_adapter / "bayeslora.json").read_text())
        assert not {"choices", "template", "length_normalized"} & manifest["recipe"].keys()

    @pytest.mark.slow
    def test_it_starts_from_another_and_goes_on_from_a_checkpoint(
        self, trained: Any, llama: Path, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, clf = trained
        still = recipe_of(llama, learning_rate=1e-9, epochs=1)
        data = read_training_data(still, *files)
        texts = [e.text for e in data.held_out]
        again = train_adapter(still, data, tmp_path / "again", start=folder)
        for p, q in zip(clf.predict(texts), again.predict(texts), strict=True):
            assert (p.confidence, p.variance) == pytest.approx((q.confidence, q.variance), abs=1e-5)

        whole = train_adapter(recipe_of(llama, epochs=2), data, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "_save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                train_adapter(recipe_of(llama, epochs=2), data, tmp_path / "resumed")
        [first, _] = sorted((tmp_path / "resumed" / "checkpoints").glob("checkpoint-*"))
        assert first.is_dir()
        resumed = train_adapter(recipe_of(llama, epochs=2), data, tmp_path / "resumed", resume=True)
        for p, q in zip(whole.predict(texts), resumed.predict(texts), strict=True):
            assert p.confidence == pytest.approx(q.confidence, abs=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["gpt2", "qwen3", "gemma3", "phi3", "opt"])
    def test_other_families_with_everything_else_a_recipe_can_ask(
        self, kind: str, files: Any, tmp_path: Path
    ) -> None:
        backbone = save_backbone(tmp_path / kind, kind, published=True)
        recipe = recipe_of(
            backbone, epochs=1, scope="token", placement="input", length_normalized=True,
            balanced=True, typos=0.5, label_smoothing=0.1, group_by_length=True,
            **({"max_tokens": 64} if kind != "qwen3" else {"template": "{text}"}),
        )  # fmt: skip
        clf = train_adapter(recipe, read_training_data(recipe, *files), tmp_path / "out")
        assert clf.choices == Choices(TWO, recipe.template or "", True)
        assert clf.predict(["good film"])[0].variance > 0

    def test_files_may_write_labels_otherwise_than_choices_name_them(self, tmp_path: Path) -> None:
        train = write(tmp_path, "t.tsv", "text\tlabel\nx\t0\ny\t1\n")
        held = write(tmp_path, "h.tsv", "text\tlabel\nz\t1\n")
        names = {"0": "bad", "1": "good"}
        recipe = Recipe(
            labels=names, choices={"good": " lovely", "bad": " poor"}, template="{text}"
        )
        data = read_training_data(recipe, train, held)
        assert data.labels == ("good", "bad")  # as the choices are ordered
        assert [e.label for e in data.train] == ["bad", "good"]

    def test_a_model_that_several_processes_train_lies_in_a_wrapper(self, llama: Path) -> None:
        class Wrapper(nn.Module):
            def __init__(self, module: nn.Module) -> None:
                super().__init__()
                self.module = module

            def forward(self, **options: Any) -> Any:
                return self.module(**options)

        model = new_adapter(recipe_of(llama), llama, [*TWO], Choices(TWO, TEMPLATE)).eval()
        reader, head = reading(load_tokenizer(llama), 32, Choices(TWO, TEMPLATE))
        batch = reader.tensors(reader.encode(["fine", "bad day"]))
        assert torch.equal(head.logits(Wrapper(model), *batch), head.logits(model, *batch))


class TestAfterwards:
    def test_it_is_calibrated_and_a_graph_and_its_desk_take_it(
        self, run: Any, trained: Any, files: Any, tmp_path: Path
    ) -> None:
        folder, _ = trained
        rows = [
            f"{one} {other} {noun}\t{label}\n"
            for label, words in ADJECTIVES.items()
            for one, other in product(words, repeat=2)
            for noun in NOUNS
        ]
        write(tmp_path, "more.tsv", "text\tlabel\n" + "".join(rows * 3))
        preset = tmp_path / "preset.yaml"
        done = run(
            "calibrate", "-a", str(folder), "-d", str(tmp_path / "more.tsv"),
            "--target-risk", "0.3", "-o", str(preset),
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert "choices " in str(load_preset(preset).policy.calibrated_for)
        done = run("predict", "-p", str(preset), "--jsonl", "fine film")
        assert json.loads(done.stdout)["label"] in TWO
        done = run("evaluate", "-p", str(preset), "-d", str(files[1]), "-o", str(tmp_path / "r"))
        assert done.exit_code == 0, done.output

        clf = BayesLoRAClassifier.from_preset(preset)
        policy = replace(load_preset(preset).policy, tau_conf=1.0, on_low_confidence="escalate")
        graph = create_escalation_graph(classifier=clf, policy=policy).compile(
            checkpointer=InMemorySaver()
        )
        thread = {"configurable": {"thread_id": "1"}}
        start(graph, {"text": "fine film"}, thread)
        [(name, asked)] = pending(graph, thread).items()
        assert "fine film" in str(asked)
        settled = resume(graph, thread, {name: {"type": "approve"}})
        assert settled["outcome"]["decided_by"] == "human"

        sure = replace(policy, tau_conf=0.0, tau_sure=None, tau_novelty=None, tau_foreign=None)
        for one, runs in ((sure, True), (policy, False)):
            desk = Desk([calls(order("tea")), DONE], UncertaintyGate(clf, one))
            assert ("__interrupt__" not in desk.say("fine film")) == runs
            assert desk.did == ([("tea", 1)] if runs else [])


class TestRefused:
    """Before the first step."""

    @pytest.fixture
    def refused(self, files: Any, tmp_path: Path) -> Any:
        def check(recipe: Recipe, message: str, **options: Any) -> None:
            out = tmp_path / "out"
            with pytest.raises(ValueError, match=message):
                train_adapter(recipe, read_training_data(recipe, *files), out, **options)
            assert not out.exists()

        return check

    def test_backbones_that_are_no_language_models(
        self, refused: Any, tiny_backbone: Path, tmp_path: Path
    ) -> None:
        refused(recipe_of(tiny_backbone), "lacks cls.predictions.*, by which a language model wri")
        reads_ahead = save_backbone(tmp_path / "bert", "bert", published=True)
        refused(recipe_of(reads_ahead, template="{text}"), "BertLMHeadModel: the logits .* differ")
        bare = save_backbone(tmp_path / "bare", "llama")
        refused(recipe_of(bare), r"lacks lm_head\.weight, by which a language model writes; take")

    def test_labels_and_choices_that_do_not_fit(
        self, refused: Any, llama: Path, files: Any, tmp_path: Path
    ) -> None:
        more = {**TWO, "odd": " day"}
        refused(recipe_of(llama, choices=more), "train.tsv has no text with label 'odd'")
        other = {"good": " lovely", "meh": " day"}
        message = "train.tsv, line 5: label 'bad' is none of `choices` .good, meh.; name what"
        refused(recipe_of(llama, choices=other), message)
        data = read_training_data(recipe_of(llama), *files)
        with pytest.raises(ValueError, match=r"`data` has the labels .*same, in the same order"):
            train_adapter(recipe_of(llama), replace(data, labels=("good", "bad")), tmp_path / "o")

    def test_what_makes_no_choice(self, refused: Any, llama: Path) -> None:
        refused(recipe_of(llama, template=None), "`choices` need the `template`")
        refused(recipe_of(llama, template="no text"), "holds {text} 0 times")
        refused(recipe_of(llama, choices=None), "`template` is for a language model; name its")
        begun = {"good": " lovely", "bad": " lovely day"}
        refused(recipe_of(llama, choices=begun), "begins with all of `choices.'good'.`")
        refused(recipe_of(llama, max_tokens=4), "which leaves none of 4 for a text")

    def test_adapters_to_start_from_of_another_kind(
        self, refused: Any, trained: Any, llama: Path, tiny_adapter: Path
    ) -> None:
        refused(recipe_of(llama), "is of a classifier, which has labels", start=tiny_adapter)
        refused(recipe_of(llama, rank=8), "has r = 4, the recipe 8", start=trained[0])
        turned = dict(reversed(TWO.items()))
        refused(recipe_of(llama, choices=turned), "with its own labels only", start=trained[0])
        classifier = recipe_of(llama, choices=None, template=None)
        refused(classifier, "is of a language model and its choices", start=trained[0])

    def test_the_command_says_what_is_missing(
        self, run: Any, llama: Path, files: Any, tmp_path: Path
    ) -> None:
        write(tmp_path, "choices.yaml", 'good: " lovely"\n')
        given = [
            "train", "--train", str(files[0]), "--held-out", str(files[1]), "--backbone",
            str(llama), "-o", str(tmp_path / "out"), "--choices", str(tmp_path / "choices.yaml"),
        ]  # fmt: skip
        done = run(*given, "--template", TEMPLATE)
        assert done.exit_code == 2
        assert "label 'bad' is none of `choices`" in done.stderr
        write(tmp_path, "choices.yaml", 'good: " lovely"\nbad: " poor"\n')
        done = run(*given)
        assert done.exit_code == 2
        assert "`choices` need the `template`" in done.stderr


@pytest.mark.slow
def test_the_command_trains(run: Any, llama: Path, files: Any, tmp_path: Path) -> None:
    write(tmp_path, "choices.yaml", 'good: " lovely"\nbad: " poor meal"\n')
    folder = tmp_path / "out"
    done = run(
        "train", "--train", str(files[0]), "--held-out", str(files[1]), "--backbone", str(llama),
        "-o", str(folder), "--choices", str(tmp_path / "choices.yaml"), "--length-normalized",
        "--template", "{text}\\nplay", "--epochs", "1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    clf = BayesLoRAClassifier.from_pretrained(folder)
    asked = {"good": " lovely", "bad": " poor meal"}
    assert clf.choices == Choices(asked, "{text}\nplay", True)
    assert clf.labels == ("good", "bad")
