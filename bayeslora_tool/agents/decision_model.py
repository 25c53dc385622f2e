"""BayesLoRADecisions: classifiers behind LangChain's typed interface for decision models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.decisions import BaseDecisionModel, ClassifierResponse, Question, State
from langchain_core.messages import BaseMessage, HumanMessage, ToolCall, convert_to_messages
from langchain_core.runnables.config import run_in_executor
from pydantic import Field, PrivateAttr

from bayeslora_tool.agents.acts import Act, read_acts
from bayeslora_tool.agents.decision_answers import Reading, answer
from bayeslora_tool.agents.dialogue import user_request
from bayeslora_tool.graphs.scoring import check_classifier
from bayeslora_tool.policy import Policy, decide, not_read
from bayeslora_tool.prediction import Prediction, check_predictions

# Of a state; the last two come from AutoModeMiddleware and are not about the request.
_READ = {"messages", "tool_call", "tool_description"}


class DoubtfulResponse(ClassifierResponse):
    """Answers, and what the classifiers doubted.

    Attributes:
        doubt: By the question's id: ``label``, ``confidence``, ``variance``, ``novelty`` and
            ``scored_by`` of the prediction behind the answer; under a policy its ``action`` and
            ``reason``, else None. Plain data, without the text.
    """

    doubt: dict[str, dict[str, Any]]


def request_text(state: State) -> str:
    """What is classified unless told otherwise: a text, or the user's request in a conversation.

    Args:
        state: A text, a message, a list of messages, or a mapping with ``messages``, as LangChain's
            middlewares send. Of a conversation the same is read as by the gates, see
            ``user_request``.

    Raises:
        ValueError: No text that could be classified, or one beside an image or a file that would
            not be read.
    """
    if isinstance(state, str):
        return state
    given: Any = state
    if isinstance(state, Mapping):
        given = state.get("messages")
        if unread := sorted(set(state) - _READ):
            raise ValueError(
                f"`state` has {', '.join(map(repr, unread))}, which would not be read; pass "
                f"`text=`, a function from the state to the text"
            )
    if isinstance(given, BaseMessage):
        given = [HumanMessage(given.content)]  # whoever wrote it, it is what is asked about
    if not _conversation(given):
        raise ValueError(
            f"`state` (={state!r:.80}) is neither a text nor a conversation; pass `text=`, a "
            f"function from the state to the text"
        )
    messages = convert_to_messages(list(given))
    text = user_request(ToolCall(name="", args={}, id=None), {"messages": messages})
    users = [message for message in messages if isinstance(message, HumanMessage)]
    for message in users:
        if (message is users[-1] or (message.text and str(message.text) in text)) and (
            kinds := _media(message)
        ):
            raise ValueError(
                f"the user's message holds {', '.join(kinds)}, which a classifier of text does not "
                f"read; pass `text=`, or leave it out of the state"
            )
    return text


def _conversation(given: Any) -> bool:
    listed = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    return listed and all(
        isinstance(m, BaseMessage) or (isinstance(m, Mapping) and "role" in m) for m in given
    )


def _media(message: BaseMessage) -> list[str]:
    blocks = message.content if isinstance(message.content, list) else []
    kinds = ["text" if isinstance(block, str) else str(block.get("type")) for block in blocks]
    return sorted({kind for kind in kinds if kind != "text"})


class BayesLoRADecisions(BaseDecisionModel):
    """Answer LangChain's ``Choice``, ``Noul`` and ``Score`` by a classifier, with its doubt.

    Names in a question's criteria are labels of the classifier, acts (of ``acts``, or of
    ``clf.for_acts``), or globs of labels; descriptions are not read. The probability of a name is
    the sum over its labels, and nothing is shared out anew: what no name covers is missing from the
    answer, or goes to a choice called ``other`` or ``none_of_the_above``. ``confidence`` is the
    probability of the choice.

    A ``Noul`` is the probability of the labels in ``criteria.true``, or of "yes" ("true") of two.
    A ``Score`` needs a level for each label. What was not read whole, or not scored, raises a
    ValueError instead of an answer: LangChain's middlewares then neither call the tool nor choose a
    model.

    Attributes:
        classifier: Anything with ``predict(texts) -> list[Prediction]``; async requests use
            ``apredict``, if there is one, which scores concurrent ones together. Or several, by the
            id of the question that each answers, or by its instructions.
        acts: Names for sets of labels, as in ``UncertaintyGate(acts=...)``, but for ``Act``. For
            ``AutoModeMiddleware``, the labels that may lead to each tool: its question ``is_risky``
            is answered by the probability that the user's request leads elsewhere.
        policy: Whose ``action`` and ``reason`` stand in the response's ``doubt``. It changes no
            answer, but that ``allow_unread`` is heeded.
        text: ``text(state) -> str``, what to classify.
    """

    model: str = "bayeslora"
    classifier: Any = Field(exclude=True, repr=False)
    acts: Any = Field(default=None, exclude=True, repr=False)
    policy: Policy | None = None
    text: Callable[[Any], str] = Field(default=request_text, exclude=True, repr=False)
    _acts: dict[str, Act] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any, /) -> None:
        """Check classifiers and acts."""
        super().model_post_init(context)
        several = isinstance(self.classifier, Mapping)
        if several and not self.classifier:
            raise ValueError("`classifier` is empty; name a classifier for each question")
        for one in self.classifier.values() if several else [self.classifier]:
            check_classifier(one)
        given = self.acts or {}
        self._acts = read_acts(given, None if several else self.classifier)
        for name, act in given.items():
            if isinstance(act, Act):
                raise TypeError(f"`acts[{name!r}]` must be labels; an Act is for UncertaintyGate")

    @property
    def _provider(self) -> str:
        return "bayeslora_tool"

    def _classify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        text, asked = self.text(state), self._asked(questions)
        found = [_checked(one, one.predict([text])) for one in _distinct(asked)]
        return self._response(state, questions, asked, found)

    async def _aclassify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        text, asked = self.text(state), self._asked(questions)
        found = await asyncio.gather(*(_apredict(one, text) for one in _distinct(asked)))
        return self._response(state, questions, asked, found)

    def _asked(self, questions: Mapping[str, Question]) -> dict[str, Any]:
        """The classifier of each question."""
        if not isinstance(self.classifier, Mapping):
            return dict.fromkeys(questions, self.classifier)
        asked = {}
        for name, question in questions.items():
            by = name if name in self.classifier else question.instructions
            if not isinstance(by, str) or by not in self.classifier:
                known = ", ".join(repr(key) for key in self.classifier)
                raise ValueError(
                    f"no classifier for question {name!r}, neither by this id nor by its "
                    f"instructions; `classifier` has {known}"
                )
            asked[name] = self.classifier[by]
        return asked

    def _response(
        self,
        state: State,
        questions: Mapping[str, Question],
        asked: Mapping[str, Any],
        found: Sequence[Prediction],
    ) -> DoubtfulResponse:
        by = dict(zip(map(id, _distinct(asked)), found, strict=True))
        tool = _tool(state)
        answers, doubt = {}, {}
        for name, question in questions.items():
            classifier = asked[name]
            prediction = by[id(classifier)]
            self._check_read(prediction)
            reading = Reading(prediction.probabilities, classifier, self._acts, tool)
            answers[name] = answer(name, question, reading)
            doubt[name] = self._doubt(prediction)
        return DoubtfulResponse(model=self.model, answers=answers, doubt=doubt)

    def _check_read(self, prediction: Prediction) -> None:
        lenient = self.policy is not None and self.policy.allow_unread
        if missed := not_read(prediction, allow_unread=lenient):
            raise ValueError(f"{missed} So there is no answer.")

    def _doubt(self, prediction: Prediction) -> dict[str, Any]:
        decision = None if self.policy is None else decide(prediction, self.policy)
        return {
            "label": prediction.label,
            "confidence": prediction.confidence,
            "variance": prediction.variance,
            "novelty": prediction.novelty,
            "scored_by": prediction.scored_by,
            "action": decision and decision.action,
            "reason": decision and decision.reason,
        }


def _distinct(asked: Mapping[str, Any]) -> list[Any]:
    return list({id(one): one for one in asked.values()}.values())


def _checked(classifier: Any, predictions: object) -> Prediction:
    (prediction,) = check_predictions(predictions, 1, getattr(classifier, "labels", ()))
    return prediction


async def _apredict(classifier: Any, text: str) -> Prediction:
    if hasattr(classifier, "apredict"):
        return _checked(classifier, await classifier.apredict([text]))
    return _checked(classifier, await run_in_executor(None, classifier.predict, [text]))


def _tool(state: State) -> str | None:
    call = state.get("tool_call") if isinstance(state, Mapping) else None
    name = call.get("name") if isinstance(call, Mapping) else None
    return name if isinstance(name, str) else None
