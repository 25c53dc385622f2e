"""How far a text lies from the training set, where the adapter's variance is blind.

A text that the adapter maps to nothing has variance 0 (Proposition 1 of BayesLoRA) and may still be
about anything. Its features x say so: the mean of its tokens, averaged over all hidden states, for
the first ones know what a text is about and the last ones what the task makes of it (Colombo et al.
2022, arXiv 2211.13527, average layers likewise). What counts is the distance to the nearest class
of the training set, under the classes' shared covariance S (Lee, Lee, Lee, Shin 2018, arXiv
1807.03888, equation 2)::

    d(x)^2 = min_c (x - mu_c)^T S^-1 (x - mu_c)

Much of a sphere is mixed into S, for that tells errors and near strangers better than S alone, and
far strangers as well (docs/experiments.md). A mean over many tokens lies nearer to the middle than
one over few, and a long stranger would pass for a short acquaintance. So the distance counts in
units of what held-out texts of its number of tokens n show: ``exp(a + b log n)``, fitted by least
squares on log d.

The distance is reported as a percentile of held-out texts of the same source: 0.99 reads as "out
farther than 99 % of ordinary texts". Knows no model and no text.
"""

from __future__ import annotations

import os.path
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from bayeslora_tool.artifacts.manifest import MAX_LABELS, NOVELTY_FILE
from bayeslora_tool.artifacts.tensors import read_shapes, read_tensors

MOST_HELD_OUT, WIDEST = 1_000_000, 8192
REMEDY = "restore the file from its source, or train the adapter again"
_SHRINKAGE = 0.8


@dataclass(frozen=True)
class Novelty:
    """Fitted distances.

    Attributes:
        whitening: (d, d), maps features so that the shared covariance is the identity.
        means: (C, d), whitened class means.
        usual: (2,), a and b of the usual distance ``exp(a + b log n)`` at n tokens.
        held_out: (M,), sorted relative distances of held-out texts.
    """

    whitening: Tensor
    means: Tensor
    usual: Tensor
    held_out: Tensor

    def absolute(self, features: Tensor) -> Tensor:
        """(B,) Distance to the nearest class mean, from features (B, L, d)."""
        x = _middle(features).float() @ self.whitening
        return torch.cdist(x, self.means).amin(dim=1)

    def distance(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B,) That distance over the usual one, from features (B, L, d) and lengths (B,)."""
        return self.absolute(features) / (self.usual[0] + self.usual[1] * lengths.log()).exp()

    def percentile(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B,) Share of held-out texts that are nearer, in [0, 1]; NaN features give NaN.

        Args:
            features: (B, L, d), of ``network.Pass``.
            lengths: (B,), tokens of each text, >= 1.
        """
        distance = self.distance(features, lengths)
        nearer = torch.searchsorted(self.held_out, distance).double() / len(self.held_out)
        return nearer.where(distance.isfinite(), torch.nan)

    def save(self, folder: Path) -> None:
        """Write ``novelty.safetensors`` into ``folder``."""
        # Half precision keeps the file small; three digits of a distance are plenty.
        halved = {"whitening": self.whitening.half(), "means": self.means.half()}
        save_file(vars(self) | halved, folder / NOVELTY_FILE)
        (folder / NOVELTY_FILE).chmod(0o644)  # safetensors writes 0600

    @classmethod
    def load(cls, folder: Path) -> Novelty | None:
        """The inverse of :meth:`save`; None for an adapter that has no such file.

        Raises:
            ValueError: The file is damaged, of another version, or its parts do not fit together.
        """
        path = folder / NOVELTY_FILE
        if not os.path.lexists(path):
            return None
        shapes = read_shapes(path)
        if shapes.keys() != {f.name for f in fields(cls)}:
            raise ValueError(
                f"{path} was fitted by another version of bayeslora_tool; train the adapter "
                f"again, or use the version it came with"
            )
        n_held_out = (*shapes["held_out"], 0)[0]
        n_classes, d = (*shapes["means"], 0, 0)[:2]
        expected = {
            "whitening": (d, d),
            "means": (n_classes, d),
            "usual": (2,),
            "held_out": (n_held_out,),
        }
        if not (
            shapes == expected
            and 0 < n_held_out <= MOST_HELD_OUT
            and 0 < n_classes <= MAX_LABELS
            and 0 < d <= WIDEST
        ):
            raise ValueError(f"{path} holds parts of shapes that do not fit; {REMEDY}")
        tensors = read_tensors(path)
        held_out = tensors["held_out"]
        if not (held_out[1:] >= held_out[:-1]).all():
            raise ValueError(f"{path}: `held_out` is not in ascending order; {REMEDY}")
        return cls(
            tensors["whitening"].float(), tensors["means"].float(), tensors["usual"], held_out
        )

    def check_fit(self, features: Tensor, n_classes: int) -> None:
        """Refuse to measure what was not fitted.

        Args:
            features: (B, L, d), of any text.
            n_classes: Of the classifier.

        Raises:
            ValueError: Other classes or wider features than those of the training texts.
        """
        expected = (n_classes, features.shape[2])
        if self.means.shape != expected:
            raise ValueError(
                f"{NOVELTY_FILE} was fitted to (classes, width) {tuple(self.means.shape)}, this "
                f"adapter has {expected}; {REMEDY}"
            )


def _middle(features: Tensor) -> Tensor:
    """(B, d) The mean of the hidden states, at norm 1, from features (B, L, d)."""
    return normalize(features.mean(dim=1), dim=1)


def fit_novelty(train: Tensor, labels: Tensor, held_out: Tensor, lengths: Tensor) -> Novelty:
    """Fit class means and their shared covariance.

    Args:
        train: (N, L, d), features of the training texts.
        labels: (N,), their classes 0 to C - 1, each at least once.
        held_out: (M, L, d), features of texts of the same source that were not trained on.
        lengths: (M,), the number of tokens of each held-out text.
    """
    x = _middle(train).double()
    n_classes = int(labels.max()) + 1
    sums = torch.zeros(n_classes, x.shape[1], dtype=x.dtype).index_add_(0, labels, x)
    means = sums / torch.bincount(labels, minlength=n_classes)[:, None]
    centred = x - means[labels]
    covariance = centred.T @ centred / len(x)
    sphere = torch.eye(len(covariance), dtype=x.dtype) * covariance.diagonal().mean()
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * sphere
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T.contiguous()
    saved = whitening.half().float(), (means @ whitening).half().float()
    found = Novelty(*saved, usual=torch.zeros(2), held_out=torch.empty(0))
    size = lengths.double().log()
    distance = found.absolute(held_out).double().log()
    spread = size - size.mean()
    slope = (spread * distance).sum() / spread.square().sum()
    if size.min() == size.max():
        slope = torch.zeros_like(slope)
    found = replace(found, usual=torch.stack([distance.mean() - slope * size.mean(), slope]))
    return replace(found, held_out=found.distance(held_out, lengths).sort().values)
