"""One text in, one checked prediction or the reason why there is none out: gates fail closed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol

from langgraph.errors import GraphBubbleUp

from bayeslora_tool.prediction import Prediction, check_predictions
from bayeslora_tool.workers import BoundedCalls

# Of one classifier. As many as Python's own executors, which run what is sync, start at most.
MOST_HANGING = 32
_calls = BoundedCalls(MOST_HANGING)


class Predictor(Protocol):
    """Anything that classifies texts with doubt."""

    def predict(self, texts: list[str], /) -> Sequence[Prediction]:
        """One prediction a text, in order."""
        ...


def check_timeout(timeout: float | None) -> None:
    """Refuse what is neither None nor a positive number of seconds.

    Raises:
        ValueError: Not positive, not finite, or not a number.
    """
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and 0 < timeout < math.inf):
        raise ValueError(f"`timeout` (={timeout!r}) must be > 0 seconds, or None to wait for ever")


def check_classifier(classifier: object) -> None:
    """Refuse what cannot classify, before it is needed.

    Raises:
        TypeError: No ``predict``.
    """
    if not callable(getattr(classifier, "predict", None)):
        raise TypeError(
            f"`classifier` must have predict(texts) -> list[Prediction], got {classifier!r:.80}"
        )


def score(classifier: Predictor, text: str, timeout: float | None) -> dict[str, Any]:
    """State update ``{"prediction", "failure", "latency"}``; one of the first two is None.

    ``latency`` is in seconds.
    A call past its ``timeout`` cannot be stopped: it goes on in a thread of its own, which does not
    keep the process from ending, and its answer is dropped. A classifier of which ``MOST_HANGING``
    calls hang so is not asked again until one of them returns.
    """
    began = perf_counter()
    try:
        if timeout is None:
            found = classifier.predict([text])
        else:
            found = _calls.run(classifier, lambda: classifier.predict([text]), timeout)
        return _checked(classifier, found, began)
    except GraphBubbleUp:
        raise
    # A sync call is not cancelled from outside, so it was from within.
    except (Exception, asyncio.CancelledError) as error:
        return _failure(error, began)


async def ascore(classifier: Any, text: str, timeout: float | None) -> dict[str, Any]:
    """The same with the classifier's ``apredict``; a late call is cancelled."""
    task, began = None, perf_counter()
    try:
        _calls.check(classifier)
        task = asyncio.ensure_future(classifier.apredict([text]))
        # Unlike `wait_for`, this does not wait for a call that ignores its cancellation.
        done, _ = await asyncio.wait({task}, timeout=timeout)
        if not done:
            assert timeout is not None
            raise TimeoutError(f"no prediction within {timeout:g} s")
        if task.cancelled():  # from within; a run that is cancelled itself does not get here
            raise RuntimeError("the scoring was cancelled")
        return _checked(classifier, task.result(), began)
    except GraphBubbleUp:
        raise
    except Exception as error:
        return _failure(error, began)
    finally:
        if task is not None and not task.done():
            _calls.give_up(classifier, task)
            task.cancel()
            # Nobody awaits it any more; asyncio would log what it raises, which may quote the text.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())


def _checked(classifier: object, predictions: Any, began: float) -> dict[str, Any]:
    labels = getattr(classifier, "labels", ())
    (prediction,) = check_predictions(predictions, 1, labels)
    latency = perf_counter() - began
    return {"prediction": prediction.to_dict(), "failure": None, "latency": latency}


def _failure(error: BaseException, began: float) -> dict[str, Any]:
    failure = f"{type(error).__name__}: {error}"
    return {"prediction": None, "failure": failure, "latency": perf_counter() - began}
