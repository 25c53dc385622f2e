"""How like a text is to the training texts of its label, as the backbone read it before training.

An adapter keeps what parts its classes and lets the rest go; whether a text belongs to any of them
lies in the rest. The backbone without the adapter still knows, and a pass of it would double the
cost. But its embedding e (the mean of its last hidden state, at norm 1) can be told from the hidden
states that the adapted pass has anyway: x, their means over the tokens, each at norm 1, end to end.
By ridge regression on the training texts, of reduced rank (Izenman 1975)::

    e(x) = offset + projection x

What counts is the cosine between e(x) and that of the nearest training text of the label given
(k nearest neighbours by features: Sun, Ming, Zhu, Li 2022, arXiv 2204.06507, k = 1; of the label
alone: the trust score of Jiang, Kim, Guan, Gupta 2018, arXiv 1805.11783). The penalty is strong, so
a text unlike all training texts shrinks towards their mean. Knows no model and no text.
"""

from __future__ import annotations

import os.path
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from bayeslora_tool.artifacts.manifest import MAX_LABELS, NEIGHBOURS_FILE
from bayeslora_tool.artifacts.tensors import read_shapes, read_tensors

MOST_TEXTS, WIDEST = 1_000_000, 8192
REMEDY = "restore the file from its source, or train the adapter again"
_RANK = 47
_PENALTY = 5.0  # in units of the features' mean variance
_FEATURES = 4096  # of several hidden states, evenly spaced, that the regression may read


@dataclass(frozen=True)
class Neighbours:
    """Training texts to compare with.

    Attributes:
        states: (S,), which hidden states are read, ascending; 0 is the embeddings.
        projection: (k, S d).
        offset: (k,).
        texts: (N, k), int8; the embeddings of training texts, at norm 1, over ``scale``.
        scale: (k,).
        labels: (N,), the class of each training text, 0 to C - 1.
    """

    states: Tensor
    projection: Tensor
    offset: Tensor
    texts: Tensor
    scale: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        # Of each class, for a text is compared with those of its own alone.
        embeddings = normalize(self.texts * self.scale, dim=1)[self.labels.argsort()]
        of_class = torch.split(embeddings, torch.bincount(self.labels).tolist())
        object.__setattr__(self, "_of_class", of_class)

    def embed(self, features: Tensor) -> Tensor:
        """(B, k) At norm 1, from features (B, L, d) of ``network.Pass``."""
        x = features[:, self.states].flatten(start_dim=1).float()
        return normalize(x @ self.projection.T + self.offset, dim=1)

    def similarity(self, features: Tensor, chosen: Tensor) -> Tensor:
        """(B,) Cosine to the nearest training text of the chosen class; NaN features give NaN.

        Args:
            features: (B, L, d), of ``network.Pass``.
            chosen: (B,), classes, as ``labels`` has them.
        """
        of_class: tuple[Tensor, ...] = self._of_class  # type: ignore[attr-defined]
        embeddings, found = self.embed(features), torch.empty(len(features))
        for label in set(chosen.tolist()):
            rows = chosen == label
            found[rows] = (embeddings[rows] @ of_class[label].T).amax(dim=1)
        return found

    def merged(self, groups: Tensor) -> Neighbours:
        """The same texts, whose classes are groups: (C,), the group of each class."""
        return replace(self, labels=groups[self.labels])

    def save(self, folder: Path) -> None:
        """Write ``neighbours.safetensors`` into ``folder``."""
        save_file(
            {f.name: getattr(self, f.name) for f in fields(self)}
            | {"projection": self.projection.half()},
            folder / NEIGHBOURS_FILE,
        )
        (folder / NEIGHBOURS_FILE).chmod(0o644)  # safetensors writes 0600

    @classmethod
    def load(cls, folder: Path) -> Neighbours | None:
        """The inverse of :meth:`save`; None for an adapter that has no such file.

        Raises:
            ValueError: The file is damaged, of another version, or its parts do not fit together.
        """
        path = folder / NEIGHBOURS_FILE
        if not os.path.lexists(path):
            return None
        shapes = read_shapes(path, integers=True)
        if shapes.keys() != {f.name for f in fields(cls)}:
            raise ValueError(
                f"{path} was fitted by another version of bayeslora_tool; train the adapter "
                f"again, or use the version it came with"
            )
        n_texts, k = (*shapes["texts"], 0, 0)[:2]
        width = (*shapes["projection"], 0, 0)[1]
        n_states = (*shapes["states"], 0)[0]
        expected = {
            "states": (n_states,),
            "projection": (k, width),
            "offset": (k,),
            "texts": (n_texts, k),
            "scale": (k,),
            "labels": (n_texts,),
        }
        if not (
            shapes == expected
            and 0 < n_texts <= MOST_TEXTS
            and 0 < k <= WIDEST
            and 0 < n_states <= width <= WIDEST * n_states
            and width % n_states == 0
        ):
            raise ValueError(f"{path} holds parts of shapes that do not fit; {REMEDY}")
        tensors = read_tensors(path)
        states, labels = tensors["states"].long(), tensors["labels"].long()
        if states.min() < 0 or labels.min() < 0 or labels.max() >= MAX_LABELS:
            raise ValueError(f"{path} holds numbers out of range; {REMEDY}")
        projection, offset, scale = (
            tensors[name].float() for name in ("projection", "offset", "scale")
        )
        return cls(states, projection, offset, tensors["texts"], scale, labels)

    def check_fit(self, features: Tensor, n_classes: int) -> None:
        """Refuse to measure what was not fitted.

        Args:
            features: (B, L, d), of any text.
            n_classes: Of the classifier.

        Raises:
            ValueError: Other hidden states or classes than those of the training texts.
        """
        _, n_states, d = features.shape
        classes = set(self.labels.tolist())
        fits = self.projection.shape[1] == len(self.states) * d and self.states.max() < n_states
        if not fits or classes != {*range(n_classes)}:
            raise ValueError(
                f"{NEIGHBOURS_FILE} was fitted to {len(classes)} classes and "
                f"{self.projection.shape[1]} features of the hidden states "
                f"{self.states.tolist()}, this adapter has {n_classes} classes and {n_states} "
                f"states of {d}; {REMEDY}"
            )


def states_read(n_states: int, d: int) -> Tensor:
    """Which of L hidden states of d numbers: all, or as many, evenly spaced, as are 4,096."""
    n = max(1, min(n_states, _FEATURES // d))
    if n == 1:
        return torch.tensor([n_states - 1])
    return torch.linspace(0, n_states - 1, n).round().long()


def fit_neighbours(
    features: Tensor, states: Tensor, labels: Tensor, embeddings: Tensor
) -> Neighbours:
    """Learn the backbone's embedding from the adapted states, and keep the training texts.

    Args:
        features: (N, S, d), of the training texts, in these states only.
        states: (S,), of :func:`states_read`.
        labels: (N,), their classes 0 to C - 1, each at least once.
        embeddings: (N, d'), of the backbone without the adapter, at norm 1.
    """
    x, e = features.flatten(start_dim=1), embeddings.double()
    middle, usual = x.mean(dim=0, dtype=torch.float64), e.mean(dim=0)
    width = x.shape[1]
    covariance, cross = torch.zeros(width, width).double(), torch.zeros(width, e.shape[1]).double()
    for start in range(0, len(x), 2048):  # in double precision a piece at a time
        centred = x[start : start + 2048].double() - middle
        covariance += centred.T @ centred / len(x)
        cross += centred.T @ (e[start : start + 2048] - usual) / len(x)
    ridge = _PENALTY * covariance.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    weights = torch.linalg.solve(covariance + ridge, cross)  # (width, d')
    # What is fitted has the covariance W^T S W; its first directions are all that is kept.
    _, directions = torch.linalg.eigh(weights.T @ covariance @ weights)
    kept = directions.flip(1)[:, :_RANK]  # (d', k - 1)
    # The rest of the mean is the same for all texts: one more coordinate.
    rest = (usual - kept @ (kept.T @ usual)).norm()
    projection = torch.cat([(weights @ kept).T, torch.zeros(1, width).double()])
    offset = torch.cat([kept.T @ usual - projection[:-1] @ middle, rest[None]])
    found = Neighbours(
        torch.arange(features.shape[1]),
        projection.half().float(),
        offset.float(),
        torch.zeros(1, len(offset), dtype=torch.int8),
        torch.ones(len(offset)),
        torch.zeros(1, dtype=torch.long),
    )
    parts = [found.embed(features[start : start + 2048]) for start in range(0, len(x), 2048)]
    texts = torch.cat(parts)
    scale = texts.abs().amax(dim=0).clamp(min=1e-9) / 127
    whole = (texts / scale).round().to(torch.int8)
    return replace(found, states=states, texts=whole, scale=scale, labels=labels)
