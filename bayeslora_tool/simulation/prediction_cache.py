"""Scores kept for many runs over the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langgraph.errors import GraphBubbleUp

from bayeslora_tool.graphs.scoring import Predictor
from bayeslora_tool.prediction import Prediction, check_predictions
from bayeslora_tool.progress import Progress, silent


class PredictionCache:
    """A classifier that scores each text once, for however many policies ask for it.

    Args:
        classifier: Anything with ``predict(texts)`` and ``labels``. What it raises over a text is
            kept, and raised whenever that text is asked for.
    """

    def __init__(self, classifier: Predictor) -> None:
        labels = getattr(classifier, "labels", None)
        if not labels:
            raise TypeError(
                f"`classifier` ({type(classifier).__name__}) has no `labels`; a simulated reviewer "
                f"needs them to be wrong with: set classifier.labels = (...)"
            )
        self.labels: tuple[str, ...] = tuple(labels)
        self._classifier = classifier
        self._known: dict[str, Prediction | Exception] = {}

    def predict(self, texts: list[str]) -> list[Prediction]:
        """As the classifier."""
        self.add(texts)
        found = [self._known[text] for text in texts]
        for one in found:
            if isinstance(one, Exception):
                raise one.with_traceback(None)
        return found  # type: ignore[return-value]  # checked: none is an Exception

    def find(self, text: str) -> Prediction | None:
        """The prediction for one text; None if it could not be scored."""
        self.add([text])
        found = self._known[text]
        return None if isinstance(found, Exception) else found

    def add(self, texts: Sequence[str], progress: Progress = silent) -> None:
        """Score what was not scored before."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if not new:
            return
        with progress("scoring", len(new)) as advance:
            for start in range(0, len(new), 64):
                batch = new[start : start + 64]
                found = self._try(batch)
                if any(isinstance(one, Exception) for one in found):
                    # One text may spoil a batch: find out which.
                    found = [one for text in batch for one in self._try([text])]
                self._known |= zip(batch, found, strict=True)
                advance(len(batch))

    def _score(self, texts: list[str]) -> list[Prediction]:
        return check_predictions(self._classifier.predict(texts), len(texts), self.labels)

    def _try(self, texts: list[str]) -> Sequence[Prediction | Exception]:
        try:
            return self._score(texts)
        except GraphBubbleUp:
            raise
        except Exception as error:  # the graph escalates such a text, as in earnest
            return [error] * len(texts)


class ConfidenceOnly(PredictionCache):
    """The same scores, as an agent sees them that knows no variance and not what it missed."""

    def _score(self, texts: list[str]) -> list[Prediction]:
        return [
            replace(p, variance=0.0, truncated=False, unread=0.0) for p in super()._score(texts)
        ]
