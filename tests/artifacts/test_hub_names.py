"""Hub ids, from a cache as huggingface_hub lays it out: revision and subfolder say which files."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.artifacts import backbone
from bayeslora_tool.artifacts.loading import load_adapter
from bayeslora_tool.artifacts.manifest import find_adapter_folder
from tests.artifacts.test_plain_peft import edit, save

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def publish(cache: Path, name: str, contents: dict[str, dict[str, Path]]) -> None:
    """Put folders into the cache as a repository.

    Args:
        cache: Of the hub.
        name: Of the repository.
        contents: By revision, what lies in which subfolder.
    """
    root = cache / f"models--{name.replace('/', '--')}"
    for revision, folders in contents.items():
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / revision).write_text(COMMITS[revision])
        for subfolder, source in folders.items():
            shutil.copytree(
                source, root / "snapshots" / COMMITS[revision] / subfolder, dirs_exist_ok=True
            )


@pytest.fixture
def hub(tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two revisions of an adapter, one that lies in a folder of its own, and a backbone."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    plain = [
        edit(
            save(tmp_path / f"r{rank}", tiny_backbone, r=rank, lora_dropout=0.1),
            base_model_name_or_path="us/base",
        )
        for rank in (2, 3, 5)
    ]
    publish(cache, "us/ours", {"main": {"": plain[0], "in/it": plain[2]}, "v1": {"": plain[1]}})
    publish(cache, "us/base", {"main": {"": tiny_backbone}})
    return cache


def rank(**options: Any) -> int:
    model: Any = load_adapter("us/ours", device="cpu", **options).model
    return int(model.peft_config["default"].r)


def test_a_revision_and_a_subfolder_are_those_of_the_hub(hub: Path) -> None:
    assert rank() == 2
    assert rank(revision="v1") == 3
    assert rank(revision=COMMITS["v1"]) == 3
    assert rank(subfolder="in/it") == 5
    assert rank(subfolder="in/it/") == 5
    clf = BayesLoRAClassifier.from_pretrained("us/ours", revision="main", subfolder="in/it")
    assert clf.predict(["a fine film"], n_draws=4)[0].variance > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revision": "v2"}, r"'us/ours' at revision 'v2' is not on the hub or its cache"),
        ({"subfolder": "elsewhere"}, r"it has no elsewhere/adapter_config\.json"),
        ({"revision": "v1", "subfolder": "in/it"}, r"at revision 'v1'.*no in/it/adapter_config"),
        ({"base_revision": "v1"}, r"backbone 'us/base'"),
    ],
)
def test_what_is_not_there_is_named(hub: Path, options: Any, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        load_adapter("us/ours", **options)


@pytest.mark.parametrize("subfolder", ["../us", "in/../..", "/etc", "in\\it"])
def test_no_subfolder_leads_out_of_the_repository(hub: Path, subfolder: str) -> None:
    with pytest.raises(ValueError, match="must be a folder inside the repository"):
        find_adapter_folder("us/ours", subfolder=subfolder)


def test_folders_have_no_revision(hub: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    for given in ({"revision": "main"}, {"subfolder": "in"}):
        for name in (tmp_path / "r2", "sentiment"):
            with pytest.raises(ValueError, match=r"`revision` and `subfolder` are of a hub"):
                load_adapter(name, **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`base_revision` \(='main'\) is of a hub"):
        load_adapter("us/ours", base=tiny_backbone, base_revision="main")


def test_the_hub_is_asked_for_that_revision_and_the_files_in_that_folder(
    tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    shutil.copytree(tiny_adapter, tmp_path / "in" / "it")

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append((name, options))
        if options["local_files_only"]:
            raise FileNotFoundError("not in the cache")
        return str(tmp_path)

    monkeypatch.setattr(backbone, "snapshot_download", snapshot_download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = find_adapter_folder("us/ours", revision="v1", subfolder="in/it")
    assert found == tmp_path / "in" / "it"
    assert [(name, o["revision"], o["local_files_only"]) for name, o in asked] == [
        ("us/ours", "v1", True),
        ("us/ours", "v1", False),
    ]
    patterns = asked[-1][1]["allow_patterns"]
    for file in tiny_adapter.iterdir():
        wanted = file.suffix != ".md"
        assert any(fnmatch(f"in/it/{file.name}", p) for p in patterns) == wanted, file
        assert not any(fnmatch(f"other/{file.name}", p) for p in patterns)
