"""BayesLoRATool: the classifier and its policy as a LangChain tool that a model can call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Annotated, Any, Literal
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManagerForToolRun,
    CallbackManagerForToolRun,
)
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool, ToolException
from langgraph.errors import GraphBubbleUp
from pydantic import BaseModel, Field

from bayeslora_tool.agents.decision_record import (
    DecisionRecord,
    decision_record,
    failed,
    record_event,
    with_key,
)
from bayeslora_tool.graphs.decision_event import atell, tell
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import check_predictions

_NAMED_LABELS = 20  # in the description: a model should learn the subject, not read a list


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

    Each scored text also becomes a custom event ``bayeslora_decision`` for callbacks and tracers,
    and a log line; one that cannot be scored becomes a log line alone. Both name the text by its
    SHA-256 and length, and never hold it.

    Attributes:
        classifier: Anything with ``predict(texts) -> list[Prediction]``; if it has ``labels``, the
            description that a model reads names them.
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

    def model_post_init(self, context: Any, /) -> None:
        """Name the labels, unless the caller gave a description."""
        labels = getattr(self.classifier, "labels", ())
        if labels and "description" not in self.model_fields_set:
            named = ", ".join(labels[:_NAMED_LABELS])
            more = f" and {len(labels) - _NAMED_LABELS} more" * (len(labels) > _NAMED_LABELS)
            self.description += f" Labels: {named}{more}."
        super().model_post_init(context)

    def _run(
        self, text: str | list[str], run_manager: CallbackManagerForToolRun | None = None
    ) -> tuple[str, dict[str, Any]]:
        texts = _listed(text)
        with self._told_to_the_model(texts):
            began = perf_counter()
            records = self._records(texts, self.classifier.predict(texts), began)
        for record in records:
            event = record_event(record, gate=None, tool=self.name)
            if run_manager is not None:  # called within a run, so there is someone to tell
                tell(event, {"callbacks": run_manager.get_child()})
        return _answer(records)

    async def _arun(
        self, text: str | list[str], run_manager: AsyncCallbackManagerForToolRun | None = None
    ) -> tuple[str, dict[str, Any]]:
        texts = _listed(text)
        with self._told_to_the_model(texts):
            began = perf_counter()
            if hasattr(self.classifier, "apredict"):  # scores concurrent calls together
                predictions = await self.classifier.apredict(texts)
            else:
                predictions = await run_in_executor(None, self.classifier.predict, texts)
            records = self._records(texts, predictions, began)
        for record in records:
            event = record_event(record, gate=None, tool=self.name)
            if run_manager is not None:
                await atell(event, {"callbacks": run_manager.get_child()})
        return _answer(records)

    def _records(self, texts: list[str], predictions: object, began: float) -> list[DecisionRecord]:
        latency = perf_counter() - began
        checked = check_predictions(predictions, len(texts), getattr(self.classifier, "labels", ()))
        records = []
        for text, prediction in zip(texts, checked, strict=True):
            scored = {"prediction": prediction.to_dict(), "failure": None, "latency": latency}
            record = decision_record(text, scored, self.policy)
            records.append(with_key(record, uuid4().hex, self.policy))
        return records

    @contextmanager
    def _told_to_the_model(self, texts: list[str]) -> Iterator[None]:
        try:
            yield
        except GraphBubbleUp:
            raise
        except Exception as error:
            for text in texts:
                lost = failed(text, f"{type(error).__name__}: {error}")
                record_event(lost, gate=None, tool=self.name)
            raise ToolException(
                f"Not classified, do not act on it: {error}. Correct the text, or ask a person."
            ) from error


def _listed(text: str | list[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not texts:
        raise ToolException("`text` is an empty list; give at least one text to classify.")
    return texts


def _answer(records: list[DecisionRecord]) -> tuple[str, dict[str, Any]]:
    lines = [_line(record) for record in records]
    if len(lines) > 1:
        lines = [f"{i}. {line}" for i, line in enumerate(lines, start=1)]
    artifact = [
        {
            "text": record["text"],
            "prediction": record["prediction"],
            "decision": {"action": record["action"], "reason": record["reason"]},
            "key": record["key"],
            "audit": record["audit"],
            "audit_rate": record["audit_rate"],
        }
        for record in records
    ]
    return "\n".join(lines), {"results": artifact}


def _line(record: DecisionRecord) -> str:
    prediction = record["prediction"]
    assert prediction is not None
    return (
        f"action={record['action']} label={prediction['label']} "
        f"confidence={prediction['confidence']:.3f} variance={prediction['variance']:.2g}: "
        f"{record['reason']}"
    )
