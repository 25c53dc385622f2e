"""Answers to LangChain's typed questions, and its two middlewares over them as they are."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AutoModeMiddleware,
    ModelChoice,
    ModelRouterMiddleware,
)
from langchain_core._api.beta_decorator import suppress_langchain_beta_warning
from langchain_core.decisions import Box, Choice, Noul, NoulCriteria, Score
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import StructuredTool

from bayeslora_tool import Policy
from bayeslora_tool.agents import Act, BayesLoRADecisions
from bayeslora_tool.prediction import Prediction
from tests.agents.desk import DONE, Desk, order
from tests.fakes import Answers, FakeClassifier, make_prediction
from tests.scripted_model import ScriptedModel, calls

SHARES = {"book_hotel": 0.1, "book_flight": 0.5, "translate": 0.3, "refund": 0.1}


def spread(shares: dict[str, float], **changes: Any) -> Prediction:
    label = max(shares, key=lambda x: shares[x])
    return make_prediction(label=label, confidence=shares[label], probabilities=shares, **changes)


def over(shares: dict[str, float], **changes: Any) -> FakeClassifier:
    clf = FakeClassifier(lambda text: spread(shares, **changes))
    clf.labels = tuple(shares)  # type: ignore[assignment]
    return clf


def ask(question: Any, *, name: str = "q", state: Any = "a text", **options: Any) -> Any:
    model = BayesLoRADecisions(**{"classifier": over(SHARES)} | options)
    response = model.invoke({"state": state, "questions": {name: question}})
    answered = asyncio.run(model.ainvoke({"state": state, "questions": {name: question}}))
    assert answered == response
    return response.answers[name]


def choice(*names: str) -> Choice:
    return Choice(instructions="Which?", criteria=dict.fromkeys(names))


class TestChoice:
    def test_a_name_has_the_sum_of_its_labels_and_nothing_is_shared_out_anew(self) -> None:
        found = ask(choice("book_*", "refund"))
        assert found.choice == "book_*"
        assert found.probabilities == {"book_*": pytest.approx(0.6), "refund": pytest.approx(0.1)}
        assert found.confidence == found.probabilities["book_*"]

    def test_what_fits_no_choice_does_not_look_sure(self) -> None:
        sure = over({"translate": 0.99, "refund": 0.006, "book_hotel": 0.004})
        found = ask(choice("refund", "book_hotel"), classifier=sure)
        assert (found.choice, found.confidence) == ("refund", pytest.approx(0.006))

    @pytest.mark.parametrize("other", ["other", "none_of_the_above"])
    def test_the_rest_goes_to_a_choice_that_asks_for_it(self, other: str) -> None:
        sure = over({"translate": 0.9, "refund": 0.06, "book_hotel": 0.04})
        found = ask(choice("refund", other), classifier=sure)
        assert found.choice == other
        assert found.probabilities == {"refund": pytest.approx(0.06), other: pytest.approx(0.94)}

    @given(
        st.lists(st.floats(1e-6, 1), min_size=2, max_size=9),
        st.sets(st.integers(0, 8), min_size=1),
        st.booleans(),
    )
    def test_no_probability_is_lost_or_made(
        self, weights: list[float], named: set[int], with_other: bool
    ) -> None:
        total = math.fsum(weights)
        shares = {f"label_{i}": w / total for i, w in enumerate(weights)}
        names = [f"label_{i}" for i in named if i < len(weights)] or ["label_0"]
        asked = choice(*names, *(["other"] * with_other))
        model = BayesLoRADecisions(classifier=over(shares))
        found: Any = model.invoke({"state": "x", "questions": {"q": asked}}).answers["q"]
        for name in names:
            assert found.probabilities[name] == pytest.approx(shares[name])
        rest = math.fsum(p for name, p in shares.items() if name not in names)
        assert found.probabilities.get("other", 0) == pytest.approx(rest * with_other)
        assert found.confidence == found.probabilities[found.choice]
        assert found.confidence == max(found.probabilities.values())

    def test_a_label_called_other_is_that_label(self) -> None:
        found = ask(
            choice("other", "refund"), classifier=over({"other": 0.2, "refund": 0.7, "x": 0.1})
        )
        assert found.probabilities == {"other": pytest.approx(0.2), "refund": pytest.approx(0.7)}

    def test_acts_name_sets_of_labels(self) -> None:
        acts = {"trip": "book_*", "words": {"translate"}, "money": lambda label: label == "refund"}
        found = ask(choice("trip", "words", "money"), acts=acts)
        assert found.probabilities == {
            "trip": pytest.approx(0.6),
            "words": pytest.approx(0.3),
            "money": pytest.approx(0.1),
        }

    def test_a_classifier_over_acts_answers_by_them(self, tiny: Any) -> None:
        texts = "a good film"
        merged = tiny.for_acts({"praise": ["good"], "blame": ["bad"]})
        found = ask(choice("praise", "blame"), classifier=merged, state=texts)
        (plain,) = tiny.predict([texts])
        assert found.probabilities["praise"] == pytest.approx(plain.probabilities["good"])
        with pytest.raises(ValueError, match=r"'good' is no label \(it leads to 'praise' here\)"):
            ask(choice("good"), classifier=merged, state=texts)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["refunds"], "'refunds' is no label; criteria must be names or globs of the labels "
                          "book_hotel, book_flight, translate, refund"),
            (["cook_*"], "'cook_.' is no label"),
            (["book_*", "book_hotel"], "'book_hotel' counts for 'book_.' and for 'book_hotel'"),
            (["other", "none_of_the_above", "refund"], "name one"),
        ],
    )  # fmt: skip
    def test_criteria_that_mean_nothing_or_twice_are_refused(
        self, names: list[str], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            ask(choice(*names))

    def test_the_error_names_the_acts(self) -> None:
        with pytest.raises(ValueError, match="or of the acts trip, words"):
            ask(choice("money"), acts={"trip": "book_*", "words": "translate"})


class TestNoul:
    def test_is_the_probability_of_the_labels_that_mean_yes(self) -> None:
        yes = NoulCriteria(true=["book_*", "refund"])
        assert ask(Noul(instructions="?", criteria=yes)).noul == pytest.approx(0.7)
        both = NoulCriteria(true="refund", false=["book_*", "translate"])
        assert ask(Noul(instructions="?", criteria=both)).noul == pytest.approx(0.1)

    @pytest.mark.parametrize("yes", ["yes", "True"])
    def test_of_two_labels_yes_is_yes(self, yes: str) -> None:
        clf = over({"no": 0.3, yes: 0.7})
        assert ask(Noul(instructions="?"), classifier=clf).noul == pytest.approx(0.7)

    @pytest.mark.parametrize(
        ("criteria", "message"),
        [
            (None, "which labels mean yes is not known"),
            (NoulCriteria(true="It could cause harm."), "'It could cause harm.' is no label"),
            (NoulCriteria(true={"a": 1}), "`criteria.true` must be a label or a list"),
            (NoulCriteria(true="refund", false="translate"), "names book_hotel, book_flight"),
        ],
    )
    def test_a_yes_that_is_not_named_is_not_guessed(self, criteria: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ask(Noul(instructions="?", criteria=criteria))

    def test_which_of_two_labels_is_yes_is_not_guessed(self) -> None:
        with pytest.raises(ValueError, match="name them"):
            ask(Noul(instructions="Angry?"), classifier=over({"negative": 0.4, "positive": 0.6}))


class TestScore:
    LEVELS = over({"angry": 0.2, "calm": 0.5, "cross": 0.3})

    def test_is_the_expected_level(self) -> None:
        question = Score(instructions="?", criteria=["calm", "cross", "angry"])
        found = ask(question, classifier=self.LEVELS)
        assert found.score == pytest.approx(0 * 0.5 + 1 * 0.3 + 2 * 0.2)
        assert found.probabilities == {i: pytest.approx(p) for i, p in enumerate((0.5, 0.3, 0.2))}
        assert found.legend == {0: "calm", 1: "cross", 2: "angry"}
        assert found.confidence == pytest.approx(0.5)

    def test_a_level_may_be_several_labels(self) -> None:
        question = Score(instructions="?", criteria=["calm", ["cross", "angry"]])
        assert ask(question, classifier=self.LEVELS).score == pytest.approx(0.5)

    def test_no_label_may_be_left_out(self) -> None:
        with pytest.raises(ValueError, match="no level names cross"):
            ask(Score(instructions="?", criteria=["calm", "angry"]), classifier=self.LEVELS)


def test_what_sees_pictures_is_not_asked_of_a_classifier_of_text() -> None:
    with pytest.raises(ValueError, match="cannot answer a Box"):
        ask(Box(instructions="the dog"))


class TestWhatIsRead:
    @pytest.mark.parametrize(
        "fault",
        [{"truncated": True}, {"unread": 0.2}, {"unread": 1.0}, {"variance": math.inf}],
        ids=str,
    )
    def test_no_answer_on_what_was_not_read_or_not_scored(self, fault: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"no answer|cannot be trusted"):
            ask(choice("refund", "other"), classifier=over(SHARES, **fault))

    def test_a_policy_may_allow_a_part(self) -> None:
        options = {"classifier": over(SHARES, unread=0.2)}
        lenient = Policy(0.8, 0.01, allow_unread=True)
        assert ask(choice("refund"), policy=lenient, **options).choice == "refund"

    def test_an_error_of_the_classifier_is_no_answer(self) -> None:
        with pytest.raises(RuntimeError, match="the model broke"):
            ask(choice("refund"), classifier=Answers(RuntimeError("the model broke")))
        with pytest.raises(TypeError, match="expected a list of 1 Predictions"):
            ask(choice("refund"), classifier=Answers([]))

    @pytest.mark.parametrize(
        ("state", "read"),
        [
            ("refund me", "refund me"),
            (HumanMessage("refund me"), "refund me"),
            (AIMessage("refund me"), "refund me"),
            ([HumanMessage("hello"), AIMessage("hi"), HumanMessage("refund me")], "refund me"),
            ({"messages": [{"role": "user", "content": "refund me"}]}, "refund me"),
            (
                [HumanMessage("refund me"), AIMessage("All of it?"), HumanMessage("yes")],
                "refund me",
            ),
        ],
    )  # fmt: skip
    def test_the_users_request_is_read(self, state: Any, read: str) -> None:
        clf = over(SHARES)
        ask(choice("refund"), classifier=clf, state=state)
        assert set(clf.seen) == {read}

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ({"ticket": "refund me"}, "'ticket', which would not be read"),
            ({"messages": [HumanMessage("hi")], "page": "x"}, "'page', which would not be read"),
            (["refund me", "and now"], "neither a text nor a conversation"),
            ({"messages": None}, "neither a text nor a conversation"),
            ([AIMessage("hello")], "no message of the user"),
            ([], "no message of the user"),
            (
                HumanMessage(["what is it?", {"type": "image", "url": "http://x/y.png"}]),
                "holds image, which a classifier of text does not read",
            ),
        ],
    )
    def test_nothing_that_is_not_read_is_passed_over(self, state: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ask(choice("refund"), state=state)

    def test_text_may_be_taken_from_elsewhere(self) -> None:
        clf = over(SHARES)
        ask(choice("refund"), classifier=clf, state={"ticket": "x"}, text=lambda s: s["ticket"])
        assert set(clf.seen) == {"x"}


class TestSeveral:
    def test_a_question_finds_its_classifier_by_id_or_by_instructions(self) -> None:
        model = BayesLoRADecisions(
            classifier={"what": over(SHARES), "Angry?": over({"yes": 0.9, "no": 0.1})}
        )
        questions = {"what": choice("refund"), "mood": Noul(instructions="Angry?")}
        response = model.invoke({"state": "x", "questions": questions})
        assert response.choices["what"].confidence == pytest.approx(0.1)
        assert response.nouls["mood"].noul == pytest.approx(0.9)
        with pytest.raises(ValueError, match=r"no classifier for question 'else'.*'what', 'Angry"):
            model.invoke({"state": "x", "questions": {"else": choice("refund")}})

    def test_one_classifier_scores_a_text_once_for_all_its_questions(self) -> None:
        clf = over(SHARES)
        questions: Any = {"a": choice("refund"), "b": choice("book_*")}
        BayesLoRADecisions(classifier=clf).invoke({"state": "x", "questions": questions})
        assert clf.seen == ["x"]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"classifier": {}}, ValueError, "is empty"),
            ({"classifier": object()}, TypeError, "must have predict"),
            ({"classifier": {"a": object()}}, TypeError, "must have predict"),
            ({"classifier": over(SHARES), "acts": {"a": "cook_*"}}, ValueError, "unknown label"),
            (
                {"classifier": over(SHARES), "acts": {"a": Act(labels="refund")}},
                TypeError,
                "an Act is for UncertaintyGate",
            ),
        ],
    )  # fmt: skip
    def test_what_cannot_work_is_refused_at_once(
        self, options: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            BayesLoRADecisions(**options)


def test_the_doubt_stands_in_the_response_in_plain_data() -> None:
    clf = over(SHARES, novelty=0.4, scored_by="made up")
    request: Any = {"state": "x", "questions": {"q": choice("refund")}}
    response: Any = BayesLoRADecisions(classifier=clf, policy=Policy(0.8, 0.01)).invoke(request)
    reason = response.doubt["q"].pop("reason")
    assert response.doubt["q"] == {
        "label": "book_flight",
        "confidence": 0.5,
        "variance": 0.001,
        "novelty": 0.4,
        "scored_by": "made up",
        "action": "clarify",
    }
    assert "0.500 (< 0.8)" in reason
    bare: Any = BayesLoRADecisions(classifier=clf).invoke(request)
    assert (bare.doubt["q"]["action"], bare.doubt["q"]["reason"]) == (None, None)


def test_concurrent_requests_are_scored_together(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, real = [], type(tiny).score_texts

    def counted(self: Any, texts: Sequence[str], *how: Any) -> Any:
        sizes.append(len(texts))
        return real(self, texts, *how)

    monkeypatch.setattr(type(tiny), "score_texts", counted)
    model = BayesLoRADecisions(classifier=tiny)
    texts = [f"a good film {i}" for i in range(16)]
    requests: Any = [{"state": t, "questions": {"q": choice("good", "bad")}} for t in texts]
    found = asyncio.run(model.abatch(requests))
    assert sum(sizes) == len(texts)
    assert len(sizes) < len(texts)
    alone = [model.invoke(request).choices["q"].confidence for request in requests]
    assert [r.choices["q"].confidence for r in found] == pytest.approx(alone)


class TestAutoMode:
    ACTS = {"order": {"book_hotel", "book_flight"}, "look": "translate"}  # noqa: RUF012

    def agent(self, clf: Any, *wanted: Any, acts: Any = ACTS) -> Desk:
        gate = AutoModeMiddleware(
            tools=["order", "look"], classifier=BayesLoRADecisions(classifier=clf, acts=acts)
        )
        return Desk([calls(*wanted), DONE], gate)

    @pytest.mark.parametrize("is_async", [False, True])
    def test_a_call_that_the_request_does_not_lead_to_is_blocked(self, is_async: bool) -> None:
        def say(desk: Desk) -> None:
            config: Any = {"configurable": {"thread_id": "1"}}
            given: Any = {"messages": [("user", "a trip")]}
            if is_async:
                asyncio.run(desk.agent.ainvoke(given, config))
            else:
                desk.agent.invoke(given, config)

        fits = self.agent(over(SHARES), order("tea"))  # 0.6 that it is meant
        say(fits)
        assert fits.did == [("tea", 1)]
        misfits = self.agent(over(SHARES), ("look", {"item": "tea"}))  # 0.3
        say(misfits)
        assert misfits.did == []

    def test_a_tool_that_no_label_leads_to_is_blocked(self) -> None:
        desk = self.agent(over(SHARES), order("tea"), acts={"look": "book_*"})
        state = desk.say("a trip")
        assert desk.did == []
        assert "(probability: 1.00)" in str(state["messages"][2].content)

    def test_what_was_not_read_runs_nothing(self) -> None:
        desk = self.agent(over(SHARES, unread=0.5), order("tea"))
        with pytest.raises(ValueError, match=r"did not read 50\.00%"):
            desk.say("a trip")
        assert desk.did == []

    def test_labels_that_mean_risk_may_be_named_instead(self) -> None:
        def desk(yes: str) -> Desk:
            gate = AutoModeMiddleware(
                tools=["order"],
                criteria=NoulCriteria(true=yes),
                classifier=BayesLoRADecisions(classifier=over(SHARES)),
            )
            found = Desk([calls(order("tea")), DONE], gate)
            found.say("a trip")
            return found

        assert desk("book_*").did == []
        assert desk("refund").did == [("tea", 1)]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_router_sends_the_request_to_the_model_of_its_choice(is_async: bool) -> None:
    def run(clf: Any, text: str) -> str:
        models = {x: ScriptedModel(script=[AIMessage(f"by {x}")]) for x in ("small", "other")}
        with suppress_langchain_beta_warning():
            router = ModelRouterMiddleware(
                choices={x: ModelChoice(model=m, criteria=None) for x, m in models.items()},
                instructions="Which model?",
                classifier=BayesLoRADecisions(classifier=clf, acts={"small": "book_*"}),
            )
        tool = StructuredTool.from_function(lambda: "x", name="x", description="x")
        agent: Any = create_agent(models["small"], [tool], middleware=[router])
        given = {"messages": [("user", text)]}
        state = asyncio.run(agent.ainvoke(given)) if is_async else agent.invoke(given)
        return str(state["messages"][-1].content)

    assert run(over(SHARES), "a trip") == "by small"
    assert run(over({"translate": 0.9, "book_hotel": 0.1}), "a word") == "by other"
    with pytest.raises(ValueError, match="did not read"):
        run(over(SHARES, unread=1.0), "???")
