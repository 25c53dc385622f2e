"""bayeslora.json beside each adapter: what it was trained on, and proof that nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bayeslora_tool.artifacts.backbone import (
    HubName,
    Revision,
    find_adapter,
    sha256,
    tokenizer_files,
)
from bayeslora_tool.documents import read_document, shown
from bayeslora_tool.settings import Label, parse

FILE_NAME = "bayeslora.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
NOVELTY_FILE = "novelty.safetensors"
NEIGHBOURS_FILE = "neighbours.safetensors"
WORDING_FILE = "wording.safetensors"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]{1,255}$")]
# Rounding may take a probability a hair over 1.
Probability = Annotated[float, Field(ge=0, le=1 + 1e-6)]
Variance = Annotated[float, Field(ge=0, le=0.25 + 1e-6)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
MAX_LABELS = 10_000


Verbalizer = Annotated[str, Field(min_length=1, max_length=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BackboneRecord(_Part):
    """The backbone the adapter was trained on: hub name, commit, and SHA-256 of its files."""

    name: HubName
    revision: Revision | None
    files: Annotated[dict[FileName, Sha256], Field(min_length=1, max_length=1000)]


class ChoicesRecord(_Part):
    """Between what a language model chooses, by label, and how it is asked; see ``Choices``."""

    verbalizers: Annotated[dict[Label, Verbalizer], Field(min_length=2, max_length=MAX_LABELS)]
    template: Annotated[str, Field(min_length=1, max_length=100_000)]
    length_normalized: bool = False


class PosteriorRecord(_Part):
    """The noise the adapter was trained with; see ``posterior.py`` for the words."""

    placement: Literal["rank", "input"]
    scope: Literal["sequence", "token"]
    dropout: Annotated[float, Field(gt=0, lt=1)]


class Golden(_Part):
    """What the adapter said about a probe text on the day it was trained.

    ``confidence`` and ``variance`` are the Monte Carlo moments at ``Manifest.golden_draws`` draws,
    seed 0; ``deterministic`` is the probability of the label in the pass without noise.
    """

    text: Annotated[str, Field(min_length=1, max_length=10_000)]
    label: Label
    deterministic: Probability
    confidence: Probability
    variance: Variance


class Offset(_Part):
    """How far the log-odds of infinitely many draws lie off the linearized ones.

    For a text whose linearized log-odds have the deviation s, their location lies off by
    ``s (a + b s)``, give or take ``s * location_sd``, with ``location = (a, b)``; the logarithm of
    their variance by ``c + d s``, give or take ``log_variance_sd``, with ``log_variance = (c, d)``.
    Of that variance the linearization leaves the share ``unexplained``.
    """

    location: tuple[float, float]
    location_sd: Annotated[float, Field(gt=0)]
    log_variance: tuple[float, float]
    log_variance_sd: Annotated[float, Field(gt=0)]
    unexplained: Annotated[float, Field(gt=0, lt=1)]


class Factor(_Part):
    """One logistic factor of the sureness: weights of its signals, none negative.

    Of the label's log-odds, the energy of the logits, the distance to the training texts and the
    likeness to the nearest of the label's.
    """

    intercept: float
    log_odds: Annotated[float, Field(ge=0)]
    energy: Annotated[float, Field(ge=0)]
    distance: Annotated[float, Field(ge=0)]
    nearest: Annotated[float, Field(ge=0)]


class Sureness(_Part):
    """How signals of the pass without noise make the sureness of a text, see ``sureness.py``.

    The product of two factors, fitted at one temperature.
    """

    factors: tuple[Factor, Factor]


class Forecast(_Part):
    """What the pass without noise says of the variance of a text's log-odds.

    Its logarithm is normal about a sum of functions of the logits (``inference/forecast.py``) with
    these ``coefficients``, and has the ``deviation``. ``acts`` is the fingerprint of the acts that
    it was measured over; None: over labels.
    """

    coefficients: tuple[float, float, float, float, float, float]
    deviation: Annotated[float, Field(gt=0)]
    acts: Annotated[str, Field(max_length=64)] | None = None


class CalibrationRecord(_Part):
    """What ``bayeslora calibrate`` found, and all it depends on; see ``calibration/adapter.py``.

    ``temperature`` divides the logits of every later prediction; ``offset`` and ``forecast`` are
    measured at it, for the ``adaptive`` estimator (None: not measured, and it starts from a wide
    one), and ``sureness`` is fitted at it (None where too few tuning texts were wrong);
    ``scored_by`` names the scoring that the thresholds hold for, ``data_sha256`` the file of
    labelled texts. ``coverage``, ``risk`` and ``risk_bound`` are those of the ``n_testing`` texts;
    ``typos`` is the share of all texts that was mistyped first.
    """

    temperature: Annotated[float, Field(gt=0)]
    offset: Offset
    sureness: Sureness | None = None
    forecast: Forecast | None = None
    scored_by: Annotated[str, Field(max_length=1000)]
    tau_conf: float
    tau_var: float
    tau_novelty: float | None
    tau_sure: float | None = None
    target_risk: float | None
    max_escalation: float | None
    max_out_of_scope: float | None
    delta: float
    coverage: float
    risk: float
    risk_bound: float
    out_of_scope: float | None
    n_tuning: Count
    n_testing: Count
    data_sha256: Annotated[dict[FileName, Sha256], Field(max_length=100)]
    typos: Annotated[float, Field(ge=0, le=1)] = 0.0


class SelfCheck(_Part):
    """How far one way of computing lay from another, each a share of what is computed.

    See ``inference/self_check.py``. Of a text alone against a batch, in logits
    (``alone``); of logits with the adapter ``merged`` against PEFT's own layers; of derivatives
    against moved masks (``slopes``; None in half precision, which cannot tell). ``apart`` tells
    whether draws and texts may not share passes, ``seconds`` what it took, and ``under`` what of
    versions, machine and noise it holds for: there it need not be repeated for the same files.
    """

    alone: Annotated[float, Field(ge=0)]
    merged: Annotated[float, Field(ge=0)]
    slopes: Annotated[float, Field(ge=0)] | None
    apart: bool
    seconds: Annotated[float, Field(ge=0)]
    under: Annotated[str, Field(max_length=1000)]


class Manifest(_Part):
    """The content of ``bayeslora.json``."""

    schema_version: Literal[1] = 1
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=MAX_LABELS)]
    labels_sha256: Sha256  # see labels_fingerprint
    backbone: BackboneRecord
    adapter_files: Annotated[dict[FileName, Sha256], Field(max_length=10)]
    posterior: PosteriorRecord
    choices: ChoicesRecord | None = None  # None: the adapter has a head for its labels
    pad_token_id: Annotated[int, Field(ge=0, lt=2**31)] | None = None  # None: the tokenizer's
    golden_draws: Annotated[int, Field(ge=2, le=64)]
    golden: Annotated[tuple[Golden, ...], Field(min_length=1, max_length=100)]
    metrics: dict[str, Any]
    recipe: dict[str, Any]
    calibration: CalibrationRecord | None = None
    self_check: SelfCheck | None = None

    def write(self, folder: Path) -> None:
        """Write ``bayeslora.json`` into ``folder``."""
        content = json.dumps(
            self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False
        )
        (folder / FILE_NAME).write_text(content + "\n", encoding="utf-8")


def bundled_adapters() -> dict[str, Path]:
    """Name and folder of each adapter that ships with this package."""
    root = Path(str(resources.files("bayeslora_tool").joinpath("adapters")))
    return {p.parent.name: p.parent for p in sorted(root.glob(f"*/{FILE_NAME}"))}


def find_adapter_folder(
    name_or_path: str | Path, *, revision: str | None = None, subfolder: str | None = None
) -> Path:
    """Bundled name, folder, or hub id, in this order; a ``Path`` is no bundled name.

    Args:
        name_or_path: One of the three.
        revision: Of a hub id: commit, tag or branch.
        subfolder: Of a hub id: where in the repository the adapter lies.

    Raises:
        FileNotFoundError: None of the three; lists the bundled names.
        ValueError: The folder holds no PEFT adapter, or only a pickled one; or a bundled name is
            that of an adapter folder here, too; or ``revision`` or ``subfolder`` of a folder.
    """
    bundled, folder = bundled_adapters(), Path(name_or_path)
    here = os.path.isdir(name_or_path)  # unlike Path's, no error for a name no folder can have
    if (here or name_or_path in bundled) and (revision, subfolder) != (None, None):
        raise ValueError(
            f"{str(name_or_path)!r:.200} is a folder, and `revision` and `subfolder` are of a hub "
            f"repository; leave them out, and name the folder that holds the adapter"
        )
    if isinstance(name_or_path, str) and name_or_path in bundled:
        found = bundled[name_or_path]
        if (folder / ADAPTER_FILES[0]).is_file() and not folder.samefile(found):
            raise ValueError(
                f"{name_or_path!r} is a bundled adapter and a folder here: write "
                f"./{name_or_path} for the folder, or rename it to have the bundled one"
            )
        return found
    if not here:
        if str(name_or_path).count("/") != 1 or folder.is_absolute():
            raise FileNotFoundError(
                f"no adapter {str(name_or_path)!r:.200}: bundled are {', '.join(bundled)}; "
                f"otherwise give a folder with {' and '.join(ADAPTER_FILES)}, or a hub id "
                f"(owner/name)"
            )
        folder = find_adapter(str(name_or_path), revision, subfolder)
    for file in ADAPTER_FILES:
        if not (folder / file).is_file():
            pickled = (folder / "adapter_model.bin").exists()
            hint = "; adapter_model.bin is a pickle and is never read: save it again with PEFT"
            raise ValueError(f"{folder} is no adapter folder: no {file}{hint if pickled else ''}")
    return folder


def read_manifest(folder: Path) -> Manifest | None:
    """Read and check ``bayeslora.json``; None when the folder has none.

    Raises:
        ValueError: Not JSON, an unknown or missing key, labels repeated or altered.
    """
    path = folder / FILE_NAME
    if not os.path.lexists(path):
        return None
    manifest = parse(Manifest, read_document(path), source=str(path), strict=True)
    if len(set(manifest.labels)) != len(manifest.labels):
        twice = next(name for name, n in Counter(manifest.labels).items() if n > 1)
        raise ValueError(f"{path}: `labels` repeats a name: {twice!r:.80}")
    if manifest.choices is not None and (*manifest.choices.verbalizers,) != manifest.labels:
        raise ValueError(
            f"{path}: `choices` have other labels than `labels`, or in another order; restore the "
            f"file from its source"
        )
    if labels_fingerprint(manifest.labels) != manifest.labels_sha256:
        raise ValueError(
            f"{path}: `labels` are not those of training, or in another order (their SHA-256 is "
            f"not `labels_sha256`); restore the file from its source, or train again"
        )
    return manifest


def labels_fingerprint(labels: Sequence[str]) -> str:
    """SHA-256 of the names of the classes, in their order."""
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()


def adapter_fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of an adapter's files."""
    fitted = (NOVELTY_FILE, NEIGHBOURS_FILE, WORDING_FILE)
    names = [*ADAPTER_FILES, *(name for name in fitted if (folder / name).is_file())]
    names += [file.name for file in tokenizer_files(folder)]
    return {name: sha256(folder / name) for name in names}


def check_files(
    recorded: dict[str, str], found: dict[str, str], *, folder: Path, what: str
) -> None:
    """Compare fingerprints.

    Raises:
        ValueError: A file is missing or differs; names it and says what to do.
    """
    for name, digest in recorded.items():
        if name not in found:
            raise ValueError(f"{what} {folder} lacks {shown(name)}, which {FILE_NAME} records")
        if found[name] != digest:
            raise ValueError(
                f"{what} file {folder / name} is not the one the adapter was trained with: SHA-256 "
                f"{found[name][:12]}..., recorded {digest[:12]}... in {FILE_NAME}. "
                f"Remedy: restore the file from its source (reinstall, or download again), pass "
                f"base= with the right backbone, or train the adapter again on this one"
            )
