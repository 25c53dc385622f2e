"""BayesLoRATool: the classifier and its policy as a LangChain tool that a model can call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from langchain_core.tools import BaseTool, ToolException
from pydantic import BaseModel, Field

from bayeslora_tool.policy import Decision, Policy, decide
from bayeslora_tool.prediction import Prediction


def _explain(error: Any) -> str:
    given = error.errors()[0]["input"]
    return f"Not classified: `text` must be a text or a list of texts, got {given!r:.80}."


class _Input(BaseModel):
    text: Annotated[
        str | list[str], Field(description="The text to classify, or a list of such texts.")
    ]


class BayesLoRATool(BaseTool):
    """Classify text and say whether the answer is sure enough to act on.

    The content that a model reads carries label, confidence, variance, action and reason; the
    artifact holds the same in full: ``{"results": [{"text", "prediction", "decision"}]}``, plain
    data. What cannot be scored comes back as an error message for the model, not as an exception.

    Args:
        classifier: Anything with ``predict(texts) -> list[Prediction]``.
        policy: Thresholds and routes.
    """

    name: str = "classify_with_uncertainty"
    description: str = (
        "Classify a text (or a list of texts) and learn whether the answer is certain enough to "
        "act on. Use it before any step that depends on what a text means. Each result names an "
        "action: proceed = act on the label; clarify = ask the user what they mean first; "
        "escalate = do not act, hand over to a person."
    )
    args_schema: type[BaseModel] = _Input
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: bool = True
    handle_validation_error: bool | str | Callable[[Any], str] | None = _explain

    classifier: Any = Field(exclude=True, repr=False)
    policy: Policy

    def _run(self, text: str | list[str]) -> tuple[str, dict[str, Any]]:
        texts = _listed(text)
        with _told_to_the_model():
            predictions = self.classifier.predict(texts)
        return self._answer(texts, predictions)

    async def _arun(self, text: str | list[str]) -> tuple[str, dict[str, Any]]:
        texts = _listed(text)
        with _told_to_the_model():
            if hasattr(self.classifier, "apredict"):  # scores concurrent calls together
                predictions = await self.classifier.apredict(texts)
            else:
                predictions = await asyncio.to_thread(self.classifier.predict, texts)
        return self._answer(texts, predictions)

    def _answer(
        self, texts: list[str], predictions: list[Prediction]
    ) -> tuple[str, dict[str, Any]]:
        decisions = [decide(prediction, self.policy) for prediction in predictions]
        results = [
            {
                "text": t,
                "prediction": p.to_dict(),
                "decision": {"action": d.action, "reason": d.reason},
            }
            for t, p, d in zip(texts, predictions, decisions, strict=True)
        ]
        lines = [_line(p, d) for p, d in zip(predictions, decisions, strict=True)]
        if len(lines) > 1:
            lines = [f"{i}. {line}" for i, line in enumerate(lines, start=1)]
        return "\n".join(lines), {"results": results}


def _listed(text: str | list[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not texts:
        raise ToolException("`text` is an empty list; give at least one text to classify.")
    return texts


@contextmanager
def _told_to_the_model() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        raise ToolException(
            f"Not classified, do not act on it: {error}. Correct the text, or ask a person."
        ) from error


def _line(prediction: Prediction, decision: Decision) -> str:
    return (
        f"action={decision.action} label={prediction.label} "
        f"confidence={prediction.confidence:.3f} variance={prediction.variance:.2g}: "
        f"{decision.reason}"
    )
