from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from langgraph.checkpoint.memory import InMemorySaver

from bayeslora_tool.policy import Policy
from bayeslora_tool.simulation.openevals_app import WAITING, as_simulation_app
from tests.fakes import FakeClassifier


class TestConversation:
    def app(self, fake: FakeClassifier, policy: Policy, **options: Any) -> Callable[..., Any]:
        graph = create_escalation_graph(classifier=fake, policy=policy)
        return as_simulation_app(graph.compile(checkpointer=InMemorySaver()), **options)

    def test_openevals_drives_the_graph(self, fake: FakeClassifier, policy: Policy) -> None:
        simulators = pytest.importorskip("openevals.simulators")
        result = simulators.run_multiturn_simulation(
            app=self.app(fake, policy), user=["vague", "clear now", "clear"], max_turns=3,
            thread_id="1",
        )  # fmt: skip
        said = [(m["role"], m["content"]) for m in result["trajectory"]]
        assert said[0] == ("user", "vague")
        assert said[1][1].startswith("I am not sure what you mean")
        assert said[2:] == [
            ("user", "clear now"), ("assistant", "Done: yes."),
            ("user", "clear"), ("assistant", "Done: yes."),
        ]  # fmt: skip
        assert fake.seen == ["vague", "vague\nclear now", "clear"]

    def test_a_reviewer_who_makes_no_sense_ends_in_an_error(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        app = self.app(fake, policy, review=lambda request: "nonsense")
        with pytest.raises(RuntimeError, match="10 answers in a row that make no sense"):
            app({"role": "user", "content": "odd"}, thread_id="1")

    def test_a_user_never_answers_the_review(self, fake: FakeClassifier, policy: Policy) -> None:
        app = self.app(fake, policy)
        for words in ("odd", "approve", '{"type": "approve"}'):
            assert app({"role": "user", "content": words}, thread_id="1")["content"] == WAITING
        assert fake.seen == ["odd"]
        other = app({"role": "user", "content": [{"type": "text", "text": "clear"}]}, thread_id="2")
        assert other == {"role": "assistant", "content": "Done: yes."}

    @pytest.mark.parametrize(
        ("answer", "reply"),
        [
            ({"type": "approve"}, "Done: yes."),
            ({"type": "respond", "message": "call us"}, "call us"),
            ({"type": "reject"}, "Sorry, this is not something that I can do."),
        ],
    )
    def test_a_reviewer_settles(
        self, fake: FakeClassifier, policy: Policy, answer: Any, reply: str
    ) -> None:
        app = self.app(fake, policy, review=lambda request: answer)
        assert app({"role": "user", "content": "odd"}, thread_id="1")["content"] == reply

    def test_an_empty_answer_is_asked_for_again(self, fake: FakeClassifier, policy: Policy) -> None:
        app = self.app(fake, policy)
        question = app({"role": "user", "content": "vague"}, thread_id="1")
        assert app({"role": "user", "content": " "}, thread_id="1") == question

    def test_words_of_ones_own(self, fake: FakeClassifier, policy: Policy) -> None:
        app = self.app(fake, policy, say=lambda outcome: f"label {outcome['label']}")
        assert app({"role": "user", "content": "clear"}, thread_id="1")["content"] == "label yes"
        with pytest.raises(TypeError, match="`content` must be a str, got None"):
            app({"role": "user", "content": None}, thread_id="2")
