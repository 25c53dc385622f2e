"""DecisionClassifier: any of LangChain's decision models as the classifier of a gate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from langchain_core.decisions import (
    BaseDecisionModel,
    Choice,
    ChoiceAnswer,
    ClassifierRequest,
    ClassifierResponse,
    Noul,
    NoulAnswer,
    Score,
    ScoreAnswer,
)

from bayeslora_tool.prediction import DECISION_MODEL, Prediction, contradiction

_NAME = "question"
_ANSWERS: dict[type, type] = {Noul: NoulAnswer, Choice: ChoiceAnswer, Score: ScoreAnswer}


class DecisionClassifier:
    """A decision model that answers one question about each text, as a classifier.

    Its confidence is the probability that the model gives its own choice, not the ``confidence``
    of the answer, which each provider derives in its own way. It has no variance, no novelty, and
    does not say what of a text the model read: a policy lets it proceed only if that says
    ``allow_no_variance``, as one from ``bayeslora calibrate --decisions`` does, and never where it
    has a ``tau_novelty``. Probabilities that do not sum to 1, or whose likeliest is not the choice,
    escalate.

    Args:
        model: Any ``BaseDecisionModel``; ``invoke`` and ``ainvoke`` of it are used.
        question: What is asked of each text. The labels are the names of a ``Choice``; "yes" and
            "no" of a ``Noul``; the levels of a ``Score``, by their texts, or numbers where those
            are none.

    Attributes:
        labels: As said.
        scored_by: Provider, model and question in one line; see ``Policy.calibrated_for``.

    Raises:
        TypeError: No decision model, or no such question.
    """

    def __init__(self, model: BaseDecisionModel, question: Choice | Noul | Score) -> None:
        if not isinstance(model, BaseDecisionModel):
            raise TypeError(f"`model` must be a BaseDecisionModel, got {model!r:.80}")
        if type(question) not in _ANSWERS:
            raise TypeError(f"`question` must be a Choice, a Noul or a Score, got {question!r:.80}")
        self.model = model
        self.question = question
        self.labels = _labels(question)
        asked = hashlib.sha256(question.model_dump_json().encode()).hexdigest()[:12]
        self.scored_by = (
            f"decision model {model._provider:.200}/{model.model:.200}, question {asked}"
        )

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction a text, in order; the texts are asked about side by side.

        Raises:
            Exception: What the model raised for one of them.
            TypeError, ValueError: An answer to another question.
        """
        return [self._read(response) for response in self.model.batch(self._requests(texts))]

    async def apredict(self, texts: Sequence[str]) -> list[Prediction]:
        """:meth:`predict` by the model's own async calls."""
        return [self._read(response) for response in await self.model.abatch(self._requests(texts))]

    def attempt(self, texts: Sequence[str]) -> list[Prediction | Exception]:
        """:meth:`predict`, with an error in the place of what a gate would escalate for it."""
        answers: list[Any] = self.model.batch(self._requests(texts), return_exceptions=True)
        return [self._attempt(answer) for answer in answers]

    def _attempt(self, response: ClassifierResponse | Exception) -> Prediction | Exception:
        if isinstance(response, Exception):
            return response
        try:
            prediction = self._read(response)
        except (TypeError, ValueError) as error:
            return error
        wrong = contradiction(prediction, self.labels)
        return prediction if wrong is None else ValueError(wrong)

    def _requests(self, texts: Sequence[str]) -> list[ClassifierRequest]:
        return [{"state": text, "questions": {_NAME: self.question}} for text in texts]

    def _read(self, response: ClassifierResponse) -> Prediction:
        answer = response.answers.get(_NAME)
        if not isinstance(answer, _ANSWERS[type(self.question)]):
            raise TypeError(f"{self.model.model!r:.80} answered {answer!r:.80} to a "
                            f"{type(self.question).__name__}")  # fmt: skip
        shares = self._shares(answer)
        label = answer.choice if isinstance(answer, ChoiceAnswer) else max(shares, key=shares.get)  # type: ignore[arg-type]
        if label not in shares:
            raise ValueError(f"the choice {label!r:.80} is none of {', '.join(self.labels)}")
        return Prediction(
            label=label,
            confidence=shares[label],
            variance=math.nan,
            probabilities=shares,
            entropy=-sum(p * math.log(p) for p in shares.values() if p > 0),
            mutual_information=math.nan,
            n_draws=0,
            estimator=DECISION_MODEL,
            seed=0,
            n_tokens=0,
            truncated=False,
            scored_by=self.scored_by,
        )

    def _shares(self, answer: Any) -> dict[str, float]:
        if isinstance(answer, NoulAnswer):
            return {"yes": float(answer.noul), "no": 1 - float(answer.noul)}
        given = dict(answer.probabilities)
        keys = self.labels if isinstance(answer, ChoiceAnswer) else range(len(self.labels))
        if unknown := [key for key in given if key not in keys]:
            raise ValueError(f"{unknown[0]!r:.80} has a probability, but was not asked about")
        return {x: float(given.get(k, 0.0)) for x, k in zip(self.labels, keys, strict=True)}


def _labels(question: Choice | Noul | Score) -> tuple[str, ...]:
    if isinstance(question, Noul):
        return ("yes", "no")
    if isinstance(question, Choice):
        return tuple(question.criteria)
    levels = [level for level in question.criteria if isinstance(level, str)]
    if len(set(levels)) == len(question.criteria):
        return tuple(levels)
    return tuple(str(i) for i in range(len(question.criteria)))
