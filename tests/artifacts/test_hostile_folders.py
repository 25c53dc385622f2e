"""Damaged and malicious folders and files: an error of a few lines, soon, and no memory filled.

The border is ``documents.py``, ``adapter_config.py``, ``manifest.py``, ``tensors.py`` and
``novelty.py``; PEFT, PyYAML and transformers behind it must not see what is refused here.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.artifacts.backbone import sha256
from bayeslora_tool.artifacts.manifest import labels_fingerprint
from bayeslora_tool.policy import load_preset
from bayeslora_tool.simulation.scenarios import read_scenarios
from bayeslora_tool.training.recipe import load_recipe, read_as_trained

pytestmark = pytest.mark.slow  # some 200 folders and files

Damage = Callable[[Path], object]

LONGEST_MESSAGE = 2000  # characters
SECONDS = 5.0  # of a processor
MEGABYTES = 200

SLOW = r"(.*.*.*.*.*.*.*.*.*.*)*!"  # no match, found by trying every way to split the name


def refused(action: Callable[[], object]) -> str:
    """The message that ``action`` fails with, if it fails as it should."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        action()
    assert time.process_time() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES
    message = str(caught.value)
    assert len(message) <= LONGEST_MESSAGE
    assert message.replace("\n", "").isprintable()
    chained = caught.value.__cause__ or caught.value.__context__
    assert caught.value.__suppress_context__ or chained is None
    return message


def config(**changes: Any) -> Damage:
    return lambda folder: edit(folder / "adapter_config.json", lambda c: c.update(changes))


def manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda folder: edit(folder / "bayeslora.json", change)


def labels(*names: object) -> Damage:
    def damage(content: dict[str, Any]) -> None:
        text = [name if isinstance(name, str) else "" for name in names]
        content.update(labels=names, labels_sha256=labels_fingerprint(text))

    return manifest(damage)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def text(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))


def with_line(name: str, line: str) -> Damage:
    """One more line at the top of an object in JSON."""
    return lambda folder: (folder / name).write_text(
        (folder / name).read_text().replace("{", "{" + line + ",", 1)
    )


def folder_instead(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def pipe_instead(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = load_file(folder / name)
        change(content)
        save_file({key: value.contiguous() for key, value in content.items()}, folder / name)

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    return tensors("adapter_model.safetensors", change)


def novelty(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    return tensors("novelty.safetensors", change)


def header(name: str, content: object, size: int | None = None) -> Damage:
    """A safetensors file with any header, and the size it claims to have."""
    raw = json.dumps(content).encode()
    return lambda folder: (folder / name).write_bytes(
        struct.pack("<Q", len(raw) if size is None else size) + raw
    )


def a_lora(content: dict[str, torch.Tensor], letter: str) -> str:
    return next(key for key in sorted(content) if f"lora_{letter}" in key)


def a_head(content: dict[str, torch.Tensor]) -> str:
    return next(key for key in content if key.endswith("classifier.weight"))


MODEL, CONFIG, NOVELTY = "adapter_model.safetensors", "adapter_config.json", "novelty.safetensors"
FAR = {"dtype": "F32", "shape": [4, 4], "data_offsets": [2**40, 2**40 + 64]}
NO_NUMBERS = {"dtype": "F32", "shape": [10**9, 0], "data_offsets": [0, 0]}

PLAIN: dict[str, Damage] = {
    "config is empty": text(CONFIG, ""),
    "config is a list": text(CONFIG, "[]"),
    "config is a list of many": text(CONFIG, "[" + "0," * 500_000 + "0]"),
    "config is deep": text(CONFIG, "[" * 500_000),
    "config has a deep value": config(rank_pattern=json.loads('{"a":' * 90 + "1" + "}" * 90)),
    "config is long": text(CONFIG, '{"a": "' + "x" * 30_000_000 + '"}'),
    "config is not UTF-8": text(CONFIG, '{"a": "\udcff"}'),
    "config holds a lone surrogate": with_line(CONFIG, r'"x": "\ud800"'),
    "config holds a key twice": with_line(CONFIG, '"r": 8'),
    "config holds NaN": with_line(CONFIG, '"x": NaN'),
    "config holds a long number": with_line(CONFIG, '"x": ' + "9" * 100_000),
    "config is a folder": folder_instead(CONFIG),
    "config is a pipe": pipe_instead(CONFIG),
    "no type": lambda folder: edit(folder / CONFIG, lambda c: c.pop("peft_type")),
    "no rank": lambda folder: edit(folder / CONFIG, lambda c: c.pop("r")),
    "unknown type": config(peft_type="EVIL"),
    "another method": config(peft_type="IA3"),
    "a type that is a list": config(peft_type=["LORA"]),
    "another task": config(task_type="TOKEN_CLS"),
    "a task that is a mapping": config(task_type={"a": 1}),
    "rank 0": config(r=0),
    "rank of a billion": config(r=10**9),
    "rank that would fill memory": config(r=4096),
    "rank in words": config(r="4"),
    "rank true": config(r=True),
    "rank 4.5": config(r=4.5),
    "alpha 0": config(lora_alpha=0),
    "alpha infinite": with_line(CONFIG, '"lora_alpha_": 1e999'),
    "dropout 1": config(lora_dropout=1.0),
    "targets: an expression that hangs": config(target_modules=SLOW),
    "targets: an expression too large": config(target_modules=r"(\w{90}){90}"),
    "targets: an expression too deep": config(target_modules="(" * 400 + "a" + ")" * 400),
    "targets: a long expression": config(target_modules="a|" * 500_000),
    "targets: no expression": config(target_modules="(query"),
    "targets: look-ahead": config(target_modules="(?!key).*query"),
    "targets: nothing": config(target_modules=[]),
    "targets: nothing found": config(target_modules=["nothing", "at_all"]),
    "targets: very many": config(target_modules=[f"m{i}" for i in range(50_000)]),
    "targets: as many as are read": config(target_modules=[f"{'m' * 190}{i}" for i in range(2000)]),
    "targets: what is no layer": config(target_modules=["encoder"]),
    "targets: embeddings": config(target_modules=["word_embeddings"]),
    "targets: no name": config(target_modules=["query\x1b[31m"]),
    "rank pattern that fills memory": config(rank_pattern={".*": 4096}),
    "rank pattern of very many": config(rank_pattern={f"m{i}": 4 for i in range(30_000)}),
    "alpha pattern that hangs": config(alpha_pattern={SLOW + "?": 4, SLOW: 0}),
    "layer pattern that hangs": config(layers_pattern=[SLOW], layers_to_transform=[0]),
    "layers: very many": config(layers_to_transform=list(range(60_000))),
    "saved module that hangs": config(modules_to_save=[SLOW]),
    "saved module: the whole model": config(modules_to_save=["bert"]),
    "replicated layers": config(layer_replication=[[0, 2]] * 2000),
    "decomposition: pissa": config(init_lora_weights="pissa"),
    "decomposition: many rounds": config(init_lora_weights="pissa_niter_1000000"),
    "decomposition: loftq": config(init_lora_weights="loftq", loftq_config={"loftq_iter": 10**9}),
    "DoRA": config(use_dora=True),
    "bias of the adapter": config(lora_bias=True),
    "QALoRA": config(use_qalora=True),
    "tokens": config(trainable_token_indices=[1, 2]),
    "parameters": config(target_parameters=["weight"]),
    "Megatron": config(megatron_config={"a": 1}, megatron_core="evil.core"),
    "corda": config(corda_config={"cache_file": "/tmp/x"}),
    "arrow": config(arrow_config={"top_k": 10**9}),
    "runtime": config(runtime_config={"ephemeral_gpu_offload": True}),
    "a key that moves the cursor": config(**{"\x1b[2J\u202e": 1}),
    "a revision outside": config(revision="../../../../etc/passwd", base_model_name_or_path="a/b"),
    "a base that no file can be": config(base_model_name_or_path="a\0b\n" + "c" * 900),
    "a base that is a list": config(base_model_name_or_path=["a"]),
    "weights are empty": text(MODEL, ""),
    "weights are text": text(MODEL, "not tensors at all"),
    "weights: a header of exabytes": header(MODEL, {}, size=2**62),
    "weights: a header of gigabytes": header(MODEL, {}, size=2**31),
    "weights: no tensors": header(MODEL, {}),
    "weights: beyond the end": header(MODEL, {"a.classifier.weight": FAR}),
    "weights: a billion labels": header(MODEL, {"a.classifier.weight": NO_NUMBERS}),
    "weights: a deep header": lambda folder: (folder / MODEL).write_bytes(
        struct.pack("<Q", 100_000) + b"[" * 100_000
    ),
    "weights: whole numbers": weights(
        lambda w: w.update({a_head(w): torch.ones(2, 32, dtype=torch.int64)})
    ),
    "weights: NaN": weights(lambda w: w[a_lora(w, "A")].fill_(torch.nan)),
    "weights: another rank": weights(lambda w: w.update({a_lora(w, "A"): torch.ones(5, 32)})),
    "weights: no dimension": weights(lambda w: w.update({a_lora(w, "B"): torch.tensor(1.0)})),
    "weights: a head of one dimension": weights(lambda w: w.update({a_head(w): torch.ones(64)})),
    "weights: a long name": weights(lambda w: w.update({"x\x1b" * 300_000: torch.ones(2)})),
    "weights: very many": weights(lambda w: w.update({f"x{i}": torch.ones(0) for i in range(999)})),
    "weights are a folder": folder_instead(MODEL),
    "novelty is text": text(NOVELTY, "not tensors at all"),
    "novelty lacks a part": novelty(lambda n: n.pop("means")),
    "novelty lacks the held-out texts": novelty(lambda n: n.pop("held_out")),
    "novelty by view": novelty(
        lambda n: n.update({f"middle.{k}": n.pop(k) for k in ("means", "usual", "whitening")})
    ),
    "novelty has no texts": novelty(lambda n: n.update(held_out=torch.ones(0))),
    "novelty has no number": novelty(lambda n: n.update(held_out=torch.tensor(1.0))),
    "novelty not in order": novelty(lambda n: n.update(held_out=n["held_out"].flip(0))),
    "novelty NaN": novelty(lambda n: n["whitening"].fill_(torch.nan)),
    "novelty in whole numbers": novelty(lambda n: n.update(held_out=torch.arange(9))),
    "novelty of another width": novelty(
        lambda n: n.update(
            {"whitening": torch.eye(31), "means": torch.ones(2, 31)}
        )
    ),
    "novelty of other classes": novelty(lambda n: n.update({"means": torch.ones(3, 32)})),
    "novelty in two shapes": novelty(lambda n: n.update({"usual": torch.ones(3)})),
    "novelty is a folder": folder_instead(NOVELTY),
}  # fmt: skip

VERIFIED: dict[str, Damage] = {
    "manifest is empty": text("bayeslora.json", ""),
    "manifest is a list": text("bayeslora.json", "[]"),
    "manifest is deep": text("bayeslora.json", "[" * 500_000),
    "manifest is a folder": folder_instead("bayeslora.json"),
    "manifest is a pipe": pipe_instead("bayeslora.json"),
    "manifest holds a key twice": with_line("bayeslora.json", '"golden_draws": 8'),
    "manifest holds NaN": with_line("bayeslora.json", '"x": NaN'),
    "very many unknown keys": manifest(lambda m: m.update({f"k{i}": i for i in range(40_000)})),
    "a key of a megabyte": manifest(lambda m: m.update({"\x1b" * 100_000: 1})),
    "a deep recipe": manifest(lambda m: m.update(recipe=json.loads("[" * 400 + "]" * 400))),
    "a recipe that is none": manifest(lambda m: m.update(recipe=3)),
    "a billion golden draws": manifest(lambda m: m.update(golden_draws=10**9)),
    "golden draws true": manifest(lambda m: m.update(golden_draws=True)),
    "a golden text of 30 MB": manifest(lambda m: m["golden"][0].update(text="x " * 15_000_000)),
    "a golden text of 1 MB": manifest(lambda m: m["golden"][0].update(text="x\x1b" * 500_000)),
    "an empty golden text": manifest(lambda m: m["golden"][0].update(text="")),
    "a golden text of space": manifest(lambda m: m["golden"][0].update(text=" ")),
    "very many golden texts": manifest(lambda m: m.update(golden=m["golden"] * 1000)),
    "a golden confidence of 7": manifest(lambda m: m["golden"][0].update(confidence=7)),
    "a golden label that is none": manifest(lambda m: m["golden"][0].update(label="neither\x1b")),
    "another rate in words": manifest(lambda m: m["posterior"].update(dropout="0.3")),
    "a rate of 1": manifest(lambda m: m["posterior"].update(dropout=1)),
    "a backbone that is a list": manifest(lambda m: m["backbone"].update(name=["a"])),
    "a backbone with control characters": manifest(
        lambda m: m["backbone"].update(name="\x1b]0;x\x07/" + "y" * 900)
    ),
    "a revision outside": manifest(lambda m: m["backbone"].update(name="a/b", revision="../x")),
    "a file outside": manifest(lambda m: m["backbone"]["files"].update({"../x": "0" * 64})),
    "a file that is not there": manifest(lambda m: m["adapter_files"].update({"x": "0" * 64})),
    "no hash": manifest(lambda m: m["adapter_files"].update({CONFIG: "0"})),
    "a calibration of nothing": manifest(lambda m: m.update(calibration={})),
    "one label": labels("only"),
    "a label that is a number": labels("good", 1),
    "an empty label": labels("good", ""),
    "a label of space": labels("good", " "),
    "a label with space around": labels("good", " bad"),
    "a label with a line break": labels("good", "bad\nbad"),
    "a label with NUL": labels("good", "bad\0"),
    "a label with an escape sequence": labels("good", "\x1b[31mbad"),
    "a label that turns the writing": labels("good", "\u202edab"),
    "a label with an invisible character": labels("good", "b\u200bad"),
    "a label of a megabyte": labels("good", "bad" * 300_000),
    "very many labels": labels(*(f"label {i}" for i in range(60_000))),
    "labels in words": manifest(lambda m: m.update(labels="good bad")),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_adapter(name: str, adapter_copy: Path, tiny_backbone: Path) -> None:
    (adapter_copy / "bayeslora.json").unlink()
    load(adapter_copy, base=tiny_backbone)  # as it is, it loads
    PLAIN[name](adapter_copy)
    base = None if "base" in name or "revision" in name else tiny_backbone
    refused(lambda: load(adapter_copy, base=base))


@pytest.mark.parametrize(
    "settings",
    [
        {"exclude_modules": SLOW},
        {"rank_pattern": {SLOW: 5}, "alpha_pattern": {SLOW: 5}},
        {"target_modules": f".*(query|key|value|dense)|{SLOW}"},
    ],
)
def test_an_expression_that_hangs_others_is_matched_at_once(
    settings: dict[str, Any], adapter_copy: Path, tiny_backbone: Path
) -> None:
    (adapter_copy / "bayeslora.json").unlink()
    before = load(adapter_copy, base=tiny_backbone).predict(["a good film"])
    config(**settings)(adapter_copy)
    start = time.process_time()
    assert load(adapter_copy, base=tiny_backbone).predict(["a good film"]) == before
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("name", VERIFIED)
def test_a_manifest(name: str, adapter_copy: Path) -> None:
    VERIFIED[name](adapter_copy)
    message = refused(lambda: BayesLoRAClassifier.from_pretrained(adapter_copy))
    if "label" in name:  # for its names, and not because predictions come out otherwise
        assert "label" in message.split("\n  - ")[1].split("=")[0]


def load(folder: Path, base: Path | None) -> BayesLoRAClassifier:
    return BayesLoRAClassifier.from_pretrained(folder, base=base, dropout=0.1)


def test_whatever_is_refused_is_refused_with_a_manifest_too(adapter_copy: Path) -> None:
    """A manifest vouches for files, and whoever wrote the one may have written the others."""
    for name in ("config is deep", "Megatron", "weights: another rank", "novelty not in order"):
        folder = Path(shutil.copytree(adapter_copy, adapter_copy.parent / name))
        PLAIN[name](folder)
        files = {file: sha256(folder / file) for file in (CONFIG, MODEL, NOVELTY)}
        manifest(lambda m, files=files: m.update(adapter_files=files))(folder)
        refused(lambda folder=folder: BayesLoRAClassifier.from_pretrained(folder))


def test_a_recipe_in_a_manifest(adapter_copy: Path, tiny_files: tuple[Path, Path]) -> None:
    from bayeslora_tool.artifacts import read_manifest

    manifest(lambda m: m.update(recipe={f"k\x1b{i}": i for i in range(40_000)}))(adapter_copy)
    found = read_manifest(adapter_copy)
    assert "unknown key" in refused(lambda: read_as_trained(found, tiny_files[0]))


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)
YAML: dict[str, str] = {
    "a bomb of aliases": BOMB,
    "an alias of itself": "policy: &a [*a]",
    "an alias": "policy: &a {tau_conf: 0.5, tau_var: 0.1}\nscoring: *a",
    "a tag that runs code": "policy: !!python/object/apply:os.system ['exit 1']",
    "a tag": "policy: !!int ''",
    "deep lists": "[" * 500_000,
    "deep mappings": "{a: " * 100_000,
    "deep blocks": "- " * 500_000,
    "very many values": "[" + "1, " * 400_000 + "]",
    "very many keys": "\n".join(f"key{i}: 1" for i in range(40_000)),
    "a key twice among many": "\n".join(f"key{i % 30_000}: 1" for i in range(30_001)),
    "a long file": "policy: '" + "x" * 30_000_000 + "'",
    "a long value": "policy: " + "x" * 1_000_000,
    "a long key": "x" * 1000 + ": 1",
    "a long number": "policy: " + "9" * 100_000,
    "a long number in sixties": "policy: 1" + ":59" * 300_000,
    "no number": "policy: 0b_",
    "a control character": "policy: \x1b[2J",
    "a bidirectional key": "\u202epolicy\u202c: 1",
    "a key that is a list": "? [a]\n: 1",
    "a key that is a number": "1: 1",
    "two documents": "a: 1\n---\nb: 1",
    "text": "policy",
    "a list": "- policy",
    "nothing": "",
    "not UTF-8": "policy: \udcff",
    "NaN": "policy: {tau_conf: .nan, tau_var: .inf}",
    "no date": "policy: 2001-99-99",
    "a value of YAML 1.0": "policy: =",
}
FILES: dict[str, tuple[str, str]] = {
    "preset: a billion draws": (
        "preset", "policy: {tau_conf: 0, tau_var: 0}\nscoring: {n_draws: 1000000000}"),
    "preset: a number in quotes": ("preset", "policy: {tau_conf: '0.5', tau_var: 0}"),
    "preset: yes for a number": ("preset", "policy: {tau_conf: yes, tau_var: 0}"),
    "preset: a long adapter": (
        "preset", f"policy: {{tau_conf: 0, tau_var: 0}}\nadapter: {'x' * 5000}"),
    "recipe: an expression": ("recipe", f"target_modules: '{SLOW}'"),
    "recipe: a label with an escape": ("recipe", 'labels: {"0": "\\e[31m", "1": b}'),
    "recipe: an infinite rate": ("recipe", "learning_rate: .inf"),
    "recipe: a seed of 40 digits": ("recipe", f"seed: {'9' * 40}"),
    "recipe: a billion layers": ("recipe", "rank: 1000000000"),
    "scenarios: a label with a line break": (
        "scenarios", 'scenarios: [{id: a, text: x, gold: "a\\nb"}]'),
    "scenarios: an edit that turns the writing": (
        "scenarios", 'scenarios: [{id: a, text: x, gold: a, reviews: [{edit: "\\u202Ea"}]}]'),
    "scenarios: very many answers": (
        "scenarios", f"scenarios: [{{id: a, text: x, gold: a, clarifications: {['x'] * 5000}}}]"),
    "lines: deep": ("lines", "[" * 500_000),
    "lines: a key twice": ("lines", '{"id": "a", "id": "b", "text": "x", "gold": null}'),
    "lines: long": ("lines", "x" * 30_000_000),
    "lines: NaN": ("lines", '{"id": NaN}'),
    "lines: a long id twice": (
        "lines", 2 * (json.dumps({"id": "x" * 100_000, "text": "x", "gold": None}) + "\n")),
}  # fmt: skip
FILES |= {f"preset: {name}": ("preset", content) for name, content in YAML.items()}
FILES |= {
    f"{kind}: {name}": (kind, YAML[name])
    for kind in ("recipe", "scenarios")
    for name in ("a bomb of aliases", "deep lists", "a long file", "a list", "not UTF-8")
}
READERS: dict[str, Callable[[Path], object]] = {
    "preset": load_preset,
    "recipe": load_recipe,
    "scenarios": read_scenarios,
    "lines": read_scenarios,
}


@pytest.mark.parametrize("name", FILES)
def test_a_file(name: str, tmp_path: Path) -> None:
    kind, content = FILES[name]
    path = tmp_path / f"a.{'jsonl' if kind == 'lines' else 'yaml'}"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(lambda: READERS[kind](path))


@pytest.mark.parametrize(
    "name", ["x" * 900, "a/" + "x" * 900, "a\0b", "../\x1b[2J", "..", "/dev/zero"]
)
def test_a_preset_may_name_what_is_no_adapter(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps({"policy": {"tau_conf": 0, "tau_var": 0}, "adapter": name}))
    refused(lambda: BayesLoRAClassifier.from_pretrained(load_preset(path).adapter))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("what", ["nothing", "folder", "pipe"])
def test_no_file(kind: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{'jsonl' if kind == 'lines' else 'yaml'}"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    refused(lambda: READERS[kind](path))
