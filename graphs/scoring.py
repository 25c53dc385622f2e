"""One text in, one checked prediction or the reason why there is none out: gates fail closed."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, Protocol

from langgraph.errors import GraphBubbleUp

from bayeslora_tool.prediction import Prediction, check_predictions


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
    """State update ``{"prediction", "failure"}``, one of which is None.

    A call past its ``timeout`` cannot be stopped: it goes on in a thread of its own, which does not
    keep the process from ending, and its answer is dropped.
    """
    try:
        if timeout is None:
            return _checked(classifier.predict([text]))
        future = _call(lambda: classifier.predict([text]))
        if not wait([future], timeout).done:
            raise _late(timeout)
        return _checked(future.result())
    except GraphBubbleUp:
        raise
    # A sync call is not cancelled from outside, so it was from within.
    except (Exception, asyncio.CancelledError) as error:
        return _failure(error)


async def ascore(classifier: Any, text: str, timeout: float | None) -> dict[str, Any]:
    """The same with the classifier's ``apredict``; a late call is cancelled."""
    task = None
    try:
        task = asyncio.ensure_future(classifier.apredict([text]))
        # Unlike `wait_for`, this does not wait for a call that ignores its cancellation.
        done, _ = await asyncio.wait({task}, timeout=timeout)
        if not done:
            assert timeout is not None
            raise _late(timeout)
        if task.cancelled():  # from within; a run that is cancelled itself does not get here
            raise RuntimeError("the scoring was cancelled")
        return _checked(task.result())
    except GraphBubbleUp:
        raise
    except Exception as error:
        return _failure(error)
    finally:
        if task is not None:
            task.cancel()


def _call(function: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(function))
        except BaseException as error:
            future.set_exception(error)

    # An executor's threads are joined when the process ends; one that hangs would hold it up.
    Thread(target=run, name="bayeslora-score", daemon=True).start()
    return future


def _checked(predictions: Any) -> dict[str, Any]:
    (prediction,) = check_predictions(predictions, 1)
    return {"prediction": prediction.to_dict(), "failure": None}


def _late(timeout: float) -> TimeoutError:
    return TimeoutError(f"no prediction within {timeout:g} s")


def _failure(error: BaseException) -> dict[str, Any]:
    return {"prediction": None, "failure": f"{type(error).__name__}: {error}"}
