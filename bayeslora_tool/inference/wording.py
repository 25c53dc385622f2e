"""How foreign a text's words look beside those of the training texts: other languages, gibberish.

A text that is half in another language keeps the label of the other half, and the model's features,
which are means over tokens, look half familiar. So here a text is spelled out instead. A Markov
model of the letters of the training texts (orders 0 to 4, interpolated after Witten and Bell 1991;
language identification by such models: Dunning 1994) gives each letter x its surprise::

    s(x) = min(-log p(x | the four before it), most)

and the most foreign stretch of a text is the greatest sum of ``s(x) - usual`` over neighbouring
letters (Page's cumulative sum, 1954). ``usual`` is half a standard deviation over the mean of
held-out texts, so that a stretch of ordinary words loses what one odd word gained, and ``most``
their 95th percentile, so that a typing error or a name, which surprises much but shortly, does not
pass for a sentence. Reported as a percentile of held-out texts, as novelty is.

Knows no token and no model.
"""

from __future__ import annotations

import math
import os.path
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import save_file
from torch import Tensor

from bayeslora_tool.artifacts.manifest import WORDING_FILE
from bayeslora_tool.artifacts.tensors import read_shapes, read_tensors

ORDER = 5  # letters at a time
MOST_GRAMS, MOST_HELD_OUT = 2_000_000, 1_000_000
REMEDY = "restore the file from its source, or train the adapter again"
_MOST_SEEN = 20_000  # runs of letters whose surprise is kept: some 2 MB
_UNSEEN = 1 / 200  # of a letter, before anything is known
_KEPT_WHOLE = 3  # letters: longer ones that come once are left out, to keep the file small
_WORD = re.compile(r"[^\W\d_]+")


class Grams(Mapping[str, int]):
    """Counts of runs of letters, in arrays: as a dict they would take ten times the memory.

    Args:
        runs: Sorted, each once, of at most ``ORDER`` letters.
        counts: Of each run, > 0.
    """

    def __init__(self, runs: ArrayLike, counts: ArrayLike) -> None:
        self.runs = np.asarray(runs, dtype=f"U{ORDER}")
        self.counts = np.asarray(counts, dtype=np.int32)

    @classmethod
    def counted(cls, counts: Mapping[str, int]) -> Grams:
        """The same counts."""
        runs = sorted(counts)
        return cls(runs, [counts[run] for run in runs])

    def of(self, runs: NDArray[np.str_]) -> NDArray[np.int32]:
        """The counts of many runs; 0 of one that never came."""
        if not len(self):
            return np.zeros(runs.shape, dtype=np.int32)
        places = np.searchsorted(self.runs, runs).clip(max=len(self.runs) - 1)
        found: NDArray[np.int32] = self.counts[places] * (self.runs[places] == runs)
        return found

    def __getitem__(self, run: str) -> int:
        if len(run) > ORDER or not (found := int(self.of(np.array([run]))[0])):
            raise KeyError(run)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs.tolist())

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True)
class Wording:
    """The letters of the training texts, and how foreign held-out texts look.

    Attributes:
        grams: How often each run of at most ``ORDER`` letters came.
        usual: Surprise of a letter, in nats, over which a stretch grows.
        most: That a single letter may count.
        held_out: Sorted, of the most foreign stretches of held-out texts.
    """

    grams: Grams
    usual: float
    most: float
    held_out: Tensor

    def __post_init__(self) -> None:
        # By history: how often it was followed, and by how many letters.
        histories = [run[:-1] for run in self.grams]
        runs, places, kinds = np.unique(
            np.array(histories, dtype=self.grams.runs.dtype),
            return_inverse=True,
            return_counts=True,
        )
        followed = np.bincount(places, weights=self.grams.counts)
        object.__setattr__(self, "_followed", Grams(runs, followed))
        object.__setattr__(self, "_kinds", Grams(runs, kinds))
        object.__setattr__(self, "_seen", {})  # texts have few runs of letters that are new

    def surprises(self, text: str) -> list[float]:
        """Of each letter, in nats, and of the space between words."""
        spelled = _spelled(text)
        seen: dict[str, float] = self._seen  # type: ignore[attr-defined]
        runs = [spelled[max(0, i + 1 - ORDER) : i + 1] for i in range(1, len(spelled))]
        new = [run for run in {*runs} if run not in seen]
        found = dict(zip(new, self._surprises(new), strict=True)) if new else {}
        if len(seen) < _MOST_SEEN:
            seen |= found
        return [found[run] if run in found else seen[run] for run in runs]

    def _surprises(self, runs: Sequence[str]) -> list[float]:
        """Of the last letter of each, after the others."""
        followed: Grams = self._followed  # type: ignore[attr-defined]
        kinds: Grams = self._kinds  # type: ignore[attr-defined]
        # One array for all orders: making it takes longer than all else. A shorter run than the
        # order repeats, and does not count.
        wanted = [run[-order - 1 :] for order in range(ORDER) for run in runs]
        grams = np.array([*wanted, *(gram[:-1] for gram in wanted)], dtype=self.grams.runs.dtype)
        grams, histories = grams.reshape(2, ORDER, -1)
        n, k, came = followed.of(histories), kinds.of(histories), self.grams.of(grams)
        n *= np.array([len(run) for run in runs]) > np.arange(ORDER)[:, None]
        p = np.full(len(runs), _UNSEEN)
        for order in range(ORDER):
            p = np.where(n[order], (came[order] + k[order] * p) / np.maximum(n + k, 1)[order], p)
        surprises: list[float] = np.minimum(-np.log(p), self.most).tolist()
        return surprises

    def stretch(self, text: str) -> float:
        """How foreign the most foreign stretch of a text looks; 0 if none does."""
        worst = now = 0.0
        for surprise in self.surprises(text):
            now = max(0.0, now + surprise - self.usual)
            worst = max(worst, now)
        return worst

    def percentile(self, text: str) -> float:
        """Share of held-out texts that look less foreign, in [0, 1).

        The text itself counts as one more: a hundred are needed before one may be called more
        foreign than 99 % of them.
        """
        found = torch.tensor(self.stretch(text), dtype=self.held_out.dtype)
        return int(torch.searchsorted(self.held_out, found)) / (len(self.held_out) + 1)

    def save(self, folder: Path) -> None:
        """Write ``wording.safetensors`` into ``folder``."""
        letters = "\n".join(self.grams).encode()
        tensors = {
            # As floats, as all tensors of an adapter are; bytes and small counts fit exactly.
            "grams": torch.tensor(list(letters), dtype=torch.uint8).to(torch.bfloat16),
            "counts": torch.from_numpy(self.grams.counts).float(),
            "bounds": torch.tensor([self.usual, self.most], dtype=torch.float64),
            "held_out": self.held_out,
        }
        save_file(tensors, folder / WORDING_FILE)
        (folder / WORDING_FILE).chmod(0o644)  # safetensors writes 0600

    @classmethod
    def load(cls, folder: Path) -> Wording | None:
        """The inverse of :meth:`save`; None for an adapter that has no such file.

        Raises:
            ValueError: The file is damaged, or its parts do not fit together.
        """
        path = folder / WORDING_FILE
        if not os.path.lexists(path):
            return None
        shapes = read_shapes(path)
        names = {"grams", "counts", "bounds", "held_out"}
        fits = shapes.keys() == names and all(len(shape) == 1 for shape in shapes.values())
        fits = fits and shapes["bounds"] == (2,) and 0 < shapes["held_out"][0] <= MOST_HELD_OUT
        fits = fits and 0 < shapes["counts"][0] <= MOST_GRAMS
        # Four bytes a letter at most, and a line break.
        fits = fits and shapes["grams"][0] <= shapes["counts"][0] * (4 * ORDER + 1)
        if not fits:
            raise ValueError(f"{path} holds parts of shapes that do not fit; {REMEDY}")
        tensors = read_tensors(path)
        usual, most = tensors["bounds"].tolist()
        counts, held_out = tensors["counts"].long().tolist(), tensors["held_out"]
        try:
            grams = bytes(tensors["grams"].long().tolist()).decode().split("\n")
        except ValueError:
            grams = []
        if not (
            len(grams) == len(counts)
            and all(a < b for a, b in pairwise(grams))
            and all(1 <= len(gram) <= ORDER for gram in grams)
            and all(0 < n < 2**31 for n in counts)
            and 0 < usual < most
            and held_out[0] >= 0
            and (held_out[1:] >= held_out[:-1]).all()
        ):
            raise ValueError(f"{path} holds parts that make no sense together; {REMEDY}")
        return cls(Grams(grams, counts), usual, most, held_out)


def fit_wording(
    texts: Iterable[str],
    held_out: Sequence[str],
    progress: Callable[[int], None] = lambda n: None,
) -> Wording:
    """Count the letters of the training texts, and measure held-out ones.

    Args:
        texts: Of the training.
        held_out: Others of the same source, at least one with a word.
        progress: Called with the number of held-out texts done since the last call.
    """
    grams: Counter[str] = Counter()
    for text in texts:
        spelled = _spelled(text)
        for i in range(1, len(spelled)):
            grams.update(spelled[i - order : i + 1] for order in range(min(ORDER, i + 1)))
    kept = Grams.counted(
        {gram: n for gram, n in grams.items() if n > 1 or len(gram) <= _KEPT_WHOLE}
    )
    nothing = torch.zeros(1, dtype=torch.float64)
    free = Wording(kept, 0.0, math.inf, nothing)
    letters = torch.tensor([s for text in held_out for s in free.surprises(text)])
    if not len(letters):
        raise ValueError("`held_out` holds no words; give texts like those of the training")
    most = torch.quantile(_some(letters), 0.95)
    letters = letters.clamp(max=most)
    usual = float(letters.mean() + letters.std(correction=0) / 2)
    measure = Wording(kept, usual, max(float(most), usual + 1e-3), nothing)
    stretches = []
    for text in held_out:
        stretches.append(measure.stretch(text))
        progress(1)
    ordered = torch.tensor(sorted(stretches), dtype=torch.float64)
    return Wording(kept, measure.usual, measure.most, ordered)


def _some(letters: Tensor) -> Tensor:
    return letters[:: -(-len(letters) // 2**24)]  # the most that torch.quantile takes


def _spelled(text: str) -> str:
    """The words alone, in lower case, with a space before, between and after."""
    bare = text.casefold().replace("'", "").replace("\u2019", "")
    words = _WORD.findall(bare)
    return f" {' '.join(words)} " if words else ""
