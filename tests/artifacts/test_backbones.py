"""Backbones of several architectures: what neither they nor the adapter hold is never made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    CanineTokenizer,
)

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.artifacts.backbone_model import load_backbone, load_tokenizer, quiet
from bayeslora_tool.artifacts.loading import load_adapter
from bayeslora_tool.training.adopting import adopt_adapter
from bayeslora_tool.training.recipe import Recipe, read_training_data
from bayeslora_tool.training.trainer import train_adapter
from tests.artifacts.test_plain_peft import edit
from tests.backbones import POSITIONS, SPECIAL, WORDS, Habits, save_backbone, word_tokenizer

LABELS = ["bad", "good"]
BARE = Habits("$A")
IDS = torch.tensor([[0, 5, 9, 11, 2]])
# What transformers puts on top of a backbone besides the head that PEFT saves unasked.
TOPS = {
    "bert": "bert.pooler",
    "deberta-v2": "pooler",
    "modernbert": "head",
    "distilbert": "pre_classifier",
}


def save_adapter(folder: Path, backbone: Path, targets: Any = "all-linear", **options: Any) -> Path:
    """An adapter with random weights, saved by PEFT."""
    torch.manual_seed(3)
    settings = {"task_type": "SEQ_CLS", "r": 4, "target_modules": targets, "lora_dropout": 0.2}
    with quiet():
        model = get_peft_model(load_backbone(backbone, LABELS), LoraConfig(**settings | options))
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def logits(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = model.eval()(input_ids=IDS).logits
    return answer


def without_pooler(folder: Path) -> Path:
    file = folder / "model.safetensors"
    kept = {key: value for key, value in load_file(file).items() if "pooler" not in key}
    save_file(kept, file, {"format": "pt"})
    return folder


QUERIES = {"distilbert": ["q_lin"], "modernbert": ["Wqkv"], "deberta-v2": ["query_proj"]}


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("adapted", [False, True])
def test_weights_that_nobody_saved_are_refused_by_name(
    kind: str, adapted: bool, tmp_path: Path
) -> None:
    base = without_pooler(save_backbone(tmp_path / "base", kind))
    targets = "all-linear" if adapted else QUERIES.get(kind, ["query"])
    folder = save_adapter(tmp_path / "adapter", base, targets)
    top = TOPS[kind]
    with pytest.raises(
        ValueError, match=rf"{top}\.dense\.weight.* random.*modules_to_save=\['{top}'\]"
    ):
        load_adapter(folder, base=base, labels=LABELS, device="cpu")


@pytest.mark.parametrize("kind", TOPS)
def test_the_same_weights_saved_with_the_adapter_give_one_answer(kind: str, tmp_path: Path) -> None:
    base = without_pooler(save_backbone(tmp_path / "base", kind))
    targets = QUERIES.get(kind, ["query"])
    folder = save_adapter(tmp_path / "adapter", base, targets, modules_to_save=[TOPS[kind]])
    first, second = (
        logits(load_adapter(folder, base=base, labels=LABELS, device="cpu").model) for _ in "12"
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_backbone_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    file = base / "model.safetensors"
    kept = {key: value for key, value in load_file(file).items() if "layer.1." not in key}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 16 of its own weights .*layer\.1"):
        load_backbone(base, LABELS)


@pytest.mark.parametrize("kind", TOPS)
def test_training_saves_what_is_new_and_loads_back(
    kind: str, tiny_files: Any, tmp_path: Path
) -> None:
    base = without_pooler(save_backbone(tmp_path / "base", kind))
    targets = [*QUERIES.get(kind, ["query"]), "dense"]
    recipe = Recipe(
        backbone=str(base),
        revision=None,
        rank=4,
        epochs=3,
        max_tokens=24,
        batch_size=4,
        target_modules=targets,
    )
    trained = train_adapter(recipe, read_training_data(recipe, *tiny_files), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert TOPS[kind] in config["modules_to_save"]
    keys = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert f"base_model.model.{TOPS[kind]}.dense.weight" in keys or kind == "distilbert"
    assert not [key for key in keys if TOPS[kind] in key and "lora_" in key]
    again = BayesLoRAClassifier.from_pretrained(tmp_path / "out")
    text = ["a good film"]
    assert again.predict(text)[0].variance > 0
    one, other = (c.predict(text)[0].confidence for c in (trained, again))
    assert one == pytest.approx(other, abs=1e-6)


def with_more_words(base: Path, folder: Path, saved: list[str] | None, **options: Any) -> Any:
    """An adapter of a model whose vocabulary grew, its tokenizer beside it, and the model."""
    settings: Any = {"r": 4, "target_modules": ["query"], "lora_dropout": 0.2}
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["zebra", "yak", "newt"])
    torch.manual_seed(3)
    with quiet():
        model = load_backbone(base, LABELS)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        config = LoraConfig(task_type="SEQ_CLS", modules_to_save=saved, **settings)
        model = get_peft_model(model, config)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3) if parameter.requires_grad else None
        model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("saved", [None, ["word_embeddings"]])
def test_words_added_in_training_are_read_by_the_tokenizer_beside_the_adapter(
    saved: Any, tmp_path: Path
) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    model = with_more_words(base, tmp_path / "out", saved, save_embedding_layers=not saved)
    classifier = BayesLoRAClassifier.from_pretrained(tmp_path / "out", base=base)
    ids = [*map(WORDS.index, ["a", "good"]), len(WORDS)]
    ids = torch.tensor([[0, *(i + len(SPECIAL) for i in ids), 2]])
    with torch.inference_mode():
        expected = model.eval()(input_ids=ids).logits.softmax(dim=-1)[0]
    (found,) = classifier.predict(["a good zebra"], estimator="deterministic")
    assert found.unread == 0
    assert list(found.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_adopting_takes_over_the_tokenizer_with_its_words(tmp_path: Path) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    with_more_words(base, tmp_path / "plain", None, save_embedding_layers=True)
    rows = [f"a {kind} {word}\t{label}" for label, kind in enumerate(["bad", "good"])
            for word in ["zebra", "yak", "newt", "film"]]  # fmt: skip
    file = tmp_path / "held_out.tsv"
    file.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    adopted = adopt_adapter(tmp_path / "plain", file, tmp_path / "out", labels=LABELS, base=base)
    assert adopted.manifest is not None
    assert "tokenizer.json" in adopted.manifest.adapter_files
    plain = BayesLoRAClassifier.from_pretrained(tmp_path / "plain", base=base, labels=LABELS)
    one, other = (c.predict(["a good zebra"])[0] for c in (plain, adopted))
    assert other.unread == 0
    assert other.confidence == pytest.approx(one.confidence, abs=1e-6)


def test_words_whose_embeddings_were_not_saved_are_refused(tmp_path: Path) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    with_more_words(base, tmp_path / "out", None, save_embedding_layers=False)
    with pytest.raises(ValueError, match=r"knows 18 tokens, .*for 15: .*save_embedding_layers"):
        load_adapter(tmp_path / "out", base=base, device="cpu")


def test_a_tokenizer_that_no_manifest_records_is_refused(
    adapter_copy: Path, tiny_backbone: Path
) -> None:
    load_tokenizer(tiny_backbone).save_pretrained(adapter_copy)
    with pytest.raises(ValueError, match=r"records no fingerprint of .*tokenizer\.json"):
        load_adapter(adapter_copy)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    folder = save_adapter(tmp_path / "out", base)
    load_tokenizer(base).save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match=r"tokenizer in .*out cannot be loaded"):
        load_adapter(folder, base=base, device="cpu")


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
@pytest.mark.parametrize("beside", ["base", "out"])
def test_labels_that_do_not_exclude_each_other_are_refused(
    kind: str, beside: str, tmp_path: Path
) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    folder = save_adapter(tmp_path / "out", base)
    file = tmp_path / beside / "config.json"
    config = json.loads((base / "config.json").read_text())
    file.write_text(json.dumps(config | {"problem_type": kind}))
    with pytest.raises(ValueError, match=rf"{beside}/config\.json: `problem_type` \(='{kind}'\)"):
        load_adapter(folder, base=base, device="cpu")


def test_an_adapter_of_a_token_classifier_that_names_no_task_is_refused(tmp_path: Path) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    with quiet():
        model = AutoModelForTokenClassification.from_pretrained(str(base), num_labels=2)
        config = LoraConfig(r=4, target_modules=["query"], modules_to_save=["classifier"])
        get_peft_model(model, config).save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=r"`base_model_class` \(='BertForTokenClassification'\)"):
        load_adapter(tmp_path / "out", base=base, device="cpu")


def test_one_that_names_no_task_at_all_is_told_by_its_backbone(tmp_path: Path) -> None:
    """BERT's heads for texts and for tokens have the same name and shape."""
    base = save_backbone(tmp_path / "base", "bert")
    config = LoraConfig(r=4, target_modules=["query"], modules_to_save=["classifier"])
    for task in ("TokenClassification", "SequenceClassification"):
        with quiet():
            auto = getattr(transformers, f"AutoModelFor{task}")
            whole = auto.from_pretrained(str(base), num_labels=2)
            whole.save_pretrained(tmp_path / f"{task} base")
            load_tokenizer(base).save_pretrained(tmp_path / f"{task} base")
            get_peft_model(whole, config).save_pretrained(tmp_path / task)
        edit(tmp_path / task, auto_mapping=None)
    with pytest.raises(ValueError, match=r"no `task_type`.*'BertForTokenClassification'.*SEQ_CLS"):
        load_adapter(
            tmp_path / "TokenClassification", base=tmp_path / "TokenClassification base",
            device="cpu",
        )  # fmt: skip
    texts, base = tmp_path / "SequenceClassification", tmp_path / "SequenceClassification base"
    load_adapter(texts, base=base, device="cpu")
    file = base / "config.json"
    other = {"architectures": ["BertForTokenClassification"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | other))
    edit(texts, task_type="SEQ_CLS")  # as told
    load_adapter(texts, base=base, device="cpu")


def test_a_backbone_with_a_head_for_other_labels_gets_a_new_one(
    tiny_files: Any, tmp_path: Path
) -> None:
    """DistilBERT's head has a layer before it, which PEFT trains whole, too, so it gets no LoRA."""
    base = save_backbone(tmp_path / "bare", "distilbert")
    with quiet():
        AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=5).save_pretrained(
            tmp_path / "base"
        )
        load_tokenizer(base).save_pretrained(tmp_path / "base")
    recipe = Recipe(backbone=str(tmp_path / "base"), revision=None, rank=4, epochs=1)
    data = read_training_data(recipe, *tiny_files)
    train_adapter(recipe, data, tmp_path / "out")
    keys = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert keys["base_model.model.classifier.weight"].shape == (2, 16)
    assert "base_model.model.pre_classifier.weight" in keys
    again = BayesLoRAClassifier.from_pretrained(tmp_path / "out")
    assert set(again.predict(["a good film"])[0].probabilities) == {"bad", "good"}


def test_what_is_no_use_after_training_is_found_before(
    tiny_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is random in eval mode passes for one that loads back, but for no posterior."""
    forward = transformers.RobertaForSequenceClassification.forward

    def other(self: Any, *given: Any, **options: Any) -> Any:
        found = forward(self, *given, **options)
        found.logits = found.logits + 0.1 * torch.randn(())
        return found

    monkeypatch.setattr(transformers.RobertaForSequenceClassification, "forward", other)
    base = save_backbone(tmp_path / "base", "roberta")
    recipe = Recipe(backbone=str(base), revision=None, rank=4, epochs=1)
    with pytest.raises(ValueError, match=r"not be used after training: RobertaFor.*differ from"):
        train_adapter(recipe, read_training_data(recipe, *tiny_files), tmp_path / "out")
    assert not list(tmp_path.glob("out/checkpoints/*"))


class TestPadding:
    def test_the_token_of_training_is_recorded_and_counts(
        self, tiny_files: Any, tmp_path: Path
    ) -> None:
        """A publisher may name one later, or another, in a file that decides nothing else."""
        base = save_backbone(tmp_path / "base", "gpt2", published=True)
        recipe = Recipe(backbone=str(base), revision=None, rank=4, epochs=2, learning_rate=0.05)
        data = read_training_data(recipe, *tiny_files)
        trained = train_adapter(recipe, data, tmp_path / "out")
        assert trained.manifest is not None
        assert trained.manifest.pad_token_id == 2  # </s>, which ends no text of this tokenizer
        texts = ["good", "a bad film", "a lovely day a good meal"]
        expected = trained.predict(texts, estimator="linearized")
        file = base / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "film"}))
        again = BayesLoRAClassifier.from_pretrained(tmp_path / "out")
        assert load_tokenizer(base).pad_token == "film"
        for p, q in zip(again.predict(texts, estimator="linearized"), expected, strict=True):
            assert p.confidence == pytest.approx(q.confidence, abs=1e-6)
            assert p.variance == pytest.approx(q.variance, rel=1e-3)

    def test_a_record_of_no_token_is_refused(self, adapter_copy: Path) -> None:
        file = adapter_copy / "bayeslora.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": 10**6}))
        with pytest.raises(ValueError, match=r"`pad_token_id` \(=1000000\) is none of the 30522"):
            load_adapter(adapter_copy, device="cpu")

    def test_training_pads_as_inference_does_whatever_the_tokenizer_would(
        self, tiny_files: Any, tmp_path: Path
    ) -> None:
        """GPT-2's positions are absolute: padding on the left would move each text."""
        weights = []
        for left in (False, True):
            habits = Habits("<s> $A", left=left)
            base = save_backbone(tmp_path / f"b{left}", "gpt2", word_tokenizer(habits=habits))
            recipe = Recipe(backbone=str(base), revision=None, rank=4, epochs=1, batch_size=4)
            data = read_training_data(recipe, *tiny_files)
            long = replace(data.train[0], text="good " * 20)
            out = tmp_path / f"out{left}"
            train_adapter(recipe, replace(data, train=[*data.train, long]), out)
            weights.append(load_file(out / "adapter_model.safetensors"))
        for key, tensor in weights[0].items():
            torch.testing.assert_close(tensor, weights[1][key], rtol=0, atol=0)

    def test_a_decoder_reads_the_last_token_whatever_it_is(self, tmp_path: Path) -> None:
        """Token 0 ends a short text; beside a long one it is not taken for padding."""
        bare = word_tokenizer([*WORDS, *SPECIAL], habits=BARE)
        bare.pad_token = bare.eos_token = None
        base = save_backbone(tmp_path / "base", "gpt2", bare)
        folder = save_adapter(tmp_path / "out", base, ["c_attn"], fan_in_fan_out=True)
        texts = [f"good {WORDS[0]}", "bad film", "a lovely day a good meal"]
        model: Any = load_adapter(folder, base=base, device="cpu").model
        model.config.pad_token_id = None  # then transformers takes the last token there is
        expected = []
        for text in texts:
            ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
            with torch.inference_mode():
                expected.append(model(input_ids=ids).logits.softmax(dim=-1)[0].tolist())
        classifier = BayesLoRAClassifier.from_pretrained(folder, base=base)
        scored = classifier.predict(texts, estimator="deterministic")
        for found, probabilities in zip(scored, expected, strict=True):
            assert list(found.probabilities.values()) == pytest.approx(probabilities, abs=1e-6)

    def test_a_tokenizer_that_has_nothing_to_pad_with_is_refused(self, tmp_path: Path) -> None:
        base = save_backbone(tmp_path / "base", "gpt2", word_tokenizer(special=False))
        folder = save_adapter(tmp_path / "out", base, ["c_attn"], fan_in_fan_out=True)
        with pytest.raises(ValueError, match=r"`tokenizer` has no pad token.*beside the adapter"):
            BayesLoRAClassifier.from_pretrained(folder, base=base)
        word_tokenizer(habits=BARE).save_pretrained(folder)  # as told
        assert BayesLoRAClassifier.from_pretrained(folder, base=base).predict(["a good film"])


# DeBERTa's and ModernBERT's positions are relative: they compute past their limit, too.
ABSOLUTE = ["bert", "distilbert", "electra", "gpt2", "mpnet", "roberta", "xlm-roberta"]


def longest(model: Any) -> int:
    """The longest text that transformers itself computes without an error."""
    for length in range(1, 2 * POSITIONS):
        try:
            model(input_ids=torch.full((1, length), 5))
        except (IndexError, RuntimeError, ValueError):
            return length - 1
    raise AssertionError("no limit")


@pytest.mark.parametrize("kind", ABSOLUTE)
def test_a_text_is_cut_where_the_positions_end(kind: str, tmp_path: Path) -> None:
    base = save_backbone(tmp_path / "base", kind, word_tokenizer())
    options = {"fan_in_fan_out": kind == "gpt2"}
    top = {"modules_to_save": ["pre_classifier"]} if kind == "distilbert" else {}
    targets = {"gpt2": "c_attn", "mpnet": "q", "distilbert": "q_lin"}.get(kind, "query")
    folder = save_adapter(tmp_path / "out", base, [targets], **options | top)
    limit = longest(load_adapter(folder, base=base, device="cpu").model.eval())
    classifier = BayesLoRAClassifier.from_pretrained(folder, base=base)
    assert classifier.max_tokens == limit
    fits = "good " * (limit - 2)
    for estimator in ("linearized", "monte_carlo"):
        found = classifier.predict(["a film", fits, fits + "bad"], estimator=estimator)
        assert [(p.n_tokens, p.truncated) for p in found] == [
            (4, False),
            (limit, False),
            (limit, True),
        ]


def test_training_cuts_texts_where_the_positions_end(tiny_files: Any, tmp_path: Path) -> None:
    base = save_backbone(tmp_path / "base", "roberta")
    recipe = Recipe(backbone=str(base), revision=None, rank=4, epochs=1, max_tokens=512)
    data = read_training_data(recipe, *tiny_files)
    long = replace(data.train[0], text="good " * 100)
    train_adapter(recipe, replace(data, train=[*data.train, long]), tmp_path / "out")


def test_training_starts_from_no_adapter_whose_weights_it_would_leave_behind(
    tiny_files: Any, tmp_path: Path
) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    recipe = Recipe(
        backbone=str(base), revision=None, rank=4, alpha=8, target_modules=["query"], epochs=1
    )
    data = read_training_data(recipe, *tiny_files)
    same = {"modules_to_save": ["classifier"]}
    for name, options in (("fits", same), ("pooler", {"modules_to_save": ["bert.pooler"]})):
        save_adapter(tmp_path / name, base, ["query"], lora_alpha=8, **options)
    train_adapter(recipe, data, tmp_path / "out", start=tmp_path / "fits")
    with pytest.raises(ValueError, match=r"`start` .*other weights than the recipe trains.*pooler"):
        train_adapter(recipe, data, tmp_path / "other", start=tmp_path / "pooler")


def test_a_model_without_a_table_of_embeddings_has_none_to_fit(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "canine", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_hash_buckets=16, pad_token_id=0,
    )  # fmt: skip
    with quiet():
        AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    CanineTokenizer().save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "out", tmp_path / "base", ["query"])
    assert load_adapter(folder, base=tmp_path / "base", device="cpu").tokenizer.pad_token_id == 0
