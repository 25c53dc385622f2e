"""How far a text lies from the training set, where the adapter's variance is blind.

A text that the adapter maps to nothing has variance 0 (Proposition 1 of BayesLoRA) and may still be
about anything. Its features say so: the distance to the nearest class of the training set, under
the classes' shared covariance (Lee, Lee, Lee, Shin 2018, arXiv 1807.03888, equation 2)::

    d(x)^2 = min_c (x - mu_c)^T S^-1 (x - mu_c)

taken for views of a text that the scoring pass yields anyway, each scaled to norm 1. A mean over
many tokens lies nearer to the middle than one over few, and a long stranger would pass for a short
acquaintance. So each distance counts in units of what held-out texts of its number of tokens n
show: ``exp(a + b log n)``, fitted by least squares on log d (phrases of SST-2 against the longer
texts of AG News: area under the ROC curve 0.93 without, 0.97 with).

Which views tell strangers apart depends on how much of the input the task lets through to the last
layer:

- many classes: the mean of the tokens in the last hidden state, and what the head reads, added;
- few classes: the mean of the tokens in the middle hidden state, because the last ones keep little
  but the few directions that part the classes (an early SST-2 adapter against AG News, area
  under the ROC curve: middle 0.97, last 0.86, head 0.83).

The distance is reported as a percentile of held-out texts of the same source: 0.99 reads as "out
farther than 99 % of ordinary texts". Knows no model and no text.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from bayeslora_tool.artifacts.manifest import MAX_LABELS, NOVELTY_FILE
from bayeslora_tool.artifacts.tensors import read_shapes, read_tensors

VIEWS = {"middle", "tokens", "head"}  # see network.Pass
MOST_HELD_OUT, WIDEST = 1_000_000, 8192
REMEDY = "restore the file from its source, or train the adapter again"
MANY_CLASSES = 10
_SHRINKAGE = 0.01


@dataclass(frozen=True)
class View:
    """One kind of features.

    Attributes:
        whitening: (d, d), maps features so that the shared covariance is the identity.
        means: (C, d), whitened class means.
        usual: (2,), a and b of the usual distance ``exp(a + b log n)`` at n tokens.
    """

    whitening: Tensor
    means: Tensor
    usual: Tensor

    def distance(self, features: Tensor) -> Tensor:
        """(B,) Distance to the nearest class mean, from features (B, d)."""
        x = normalize(features.float(), dim=1) @ self.whitening.float()
        return torch.cdist(x, self.means.float()).amin(dim=1)

    def relative(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B,) Distance over the usual one at that number of tokens (B,)."""
        return self.distance(features) / (self.usual[0] + self.usual[1] * lengths.log()).exp()


@dataclass(frozen=True)
class Novelty:
    """Fitted distances.

    Attributes:
        views: By name of the features: ``middle``, ``tokens``, ``head`` (see ``network.Pass``).
        held_out: (M,), sorted sums of relative distances of held-out texts.
    """

    views: Mapping[str, View]
    held_out: Tensor

    def distance(self, features: Mapping[str, Tensor], lengths: Tensor) -> Tensor:
        """(B,) Sum of the relative distances, from features (B, d) by view and lengths (B,)."""
        parts = [view.relative(features[name], lengths) for name, view in self.views.items()]
        return torch.stack(parts).sum(dim=0)

    def percentile(self, features: Mapping[str, Tensor], lengths: Tensor) -> Tensor:
        """(B,) Share of held-out texts that are nearer, in [0, 1]; NaN features give NaN.

        Args:
            features: By name of the view, (B, d).
            lengths: (B,), tokens of each text, >= 1.
        """
        distance = self.distance(features, lengths)
        nearer = torch.searchsorted(self.held_out, distance).double() / len(self.held_out)
        return nearer.where(distance.isfinite(), torch.nan)

    def save(self, folder: Path) -> None:
        """Write ``novelty.safetensors`` into ``folder``."""
        tensors = {"held_out": self.held_out}
        for name, view in self.views.items():
            tensors |= {f"{name}.{key}": value for key, value in vars(view).items()}
        save_file(tensors, folder / NOVELTY_FILE)
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
        views = {key.split(".")[0] for key in shapes} - {"held_out"}
        parts = {f"{name}.{f.name}" for name in views for f in fields(View)}
        if not (views and views <= VIEWS and shapes.keys() == parts | {"held_out"}):
            raise ValueError(
                f"{path} was fitted by another version of bayeslora_tool; train the adapter "
                f"again, or use the version it came with"
            )
        n_held_out = (*shapes["held_out"], 0)[0]
        fits = shapes["held_out"] == (n_held_out,) and 0 < n_held_out <= MOST_HELD_OUT
        for name in views:
            n_classes, d = (*shapes[f"{name}.means"], 0, 0)[:2]
            expected = {"whitening": (d, d), "means": (n_classes, d), "usual": (2,)}
            fits &= 0 < n_classes <= MAX_LABELS and 0 < d <= WIDEST
            fits &= all(shapes[f"{name}.{key}"] == shape for key, shape in expected.items())
        if not fits:
            raise ValueError(f"{path} holds parts of shapes that do not fit; {REMEDY}")
        tensors = read_tensors(path)
        held_out = tensors["held_out"]
        if not (held_out[1:] >= held_out[:-1]).all():
            raise ValueError(f"{path}: `held_out` is not in ascending order; {REMEDY}")
        return cls(
            {
                name: View(**{f.name: tensors[f"{name}.{f.name}"] for f in fields(View)})
                for name in sorted(views)
            },
            held_out,
        )

    def check_fit(self, features: Mapping[str, Tensor], n_classes: int) -> None:
        """Refuse to measure what was not fitted.

        Args:
            features: Of any text, by name of the view.
            n_classes: Of the classifier.

        Raises:
            ValueError: Other classes or wider features than those of the training texts.
        """
        for name, view in self.views.items():
            expected = (n_classes, features[name].shape[1])
            if view.means.shape != expected:
                raise ValueError(
                    f"{NOVELTY_FILE} was fitted to (classes, width) {tuple(view.means.shape)} of "
                    f"the view {name!r}, this adapter has {expected}; {REMEDY}"
                )


def fit_novelty(
    train: Mapping[str, Tensor],
    labels: Tensor,
    held_out: Mapping[str, Tensor],
    lengths: Tensor,
) -> Novelty:
    """Fit class means and shared covariance of the views that suit the number of classes.

    Args:
        train: By name of the view (N, d), features of the training texts.
        labels: (N,), their classes 0 to C - 1, each at least once.
        held_out: By name (M, d), features of texts of the same source that were not trained on.
        lengths: (M,), the number of tokens of each held-out text.
    """
    names = ("head", "tokens") if int(labels.max()) + 1 >= MANY_CLASSES else ("middle",)
    views = {name: _fit_view(train[name], labels, held_out[name], lengths) for name in names}
    distances = Novelty(views, torch.empty(0)).distance(held_out, lengths)
    return Novelty(views, distances.sort().values)


def _fit_view(train: Tensor, labels: Tensor, held_out: Tensor, lengths: Tensor) -> View:
    x = normalize(train.double(), dim=1)
    n_classes = int(labels.max()) + 1
    sums = torch.zeros(n_classes, x.shape[1], dtype=x.dtype).index_add_(0, labels, x)
    means = sums / torch.bincount(labels, minlength=n_classes)[:, None]
    centred = x - means[labels]
    covariance = centred.T @ centred / len(x)
    # A little of a sphere, so that directions without spread do not divide by zero.
    sphere = torch.eye(len(covariance), dtype=x.dtype) * covariance.diagonal().mean()
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * sphere
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T.contiguous()
    # Half precision keeps the file small; three digits of a distance are plenty.
    view = View(whitening.half(), (means @ whitening).half(), torch.zeros(2))
    size = lengths.double().log()
    distance = view.distance(held_out).double().log()
    spread = size - size.mean()
    slope = (spread * distance).sum() / spread.square().sum()
    if size.min() == size.max():
        slope = torch.zeros_like(slope)
    usual = torch.stack([distance.mean() - slope * size.mean(), slope])
    return View(view.whitening, view.means, usual)
