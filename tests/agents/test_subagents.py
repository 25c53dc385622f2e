"""A gate in an agent that another agent calls hears the user, and asks the user through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import pending, resume, start
from bayeslora_tool.graphs.thread import ThreadError
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm

from bayeslora_tool.agents import UncertaintyGate
from bayeslora_tool.agents.subagents import on_behalf_of
from bayeslora_tool.policy import Policy
from tests.agents.desk import APPROVE, CONFIG, DONE
from tests.fakes import FakeClassifier, by_words
from tests.scripted_model import ScriptedModel, calls

REJECT = {"type": "reject"}


class Bank:
    """A front agent, and behind it one whose gated tool freezes cards."""

    def __init__(
        self,
        *,
        front: list[AIMessage],
        back: list[AIMessage],
        front_gate: bool = True,
        by_hand: bool = False,
        **gate: Any,
    ) -> None:
        self.frozen: list[str] = []
        self.fake = FakeClassifier(by_words)
        policy = gate.pop("policy", Policy(0.8, 0.01))
        gate = {"classifier": self.fake, "policy": policy} | gate

        @tool
        def freeze(card: str) -> str:
            """Freeze a card."""
            self.frozen.append(card)
            return f"{card} is frozen"

        inner: Any = create_agent(
            ScriptedModel(script=back), [freeze], middleware=[UncertaintyGate(**gate)]
        )

        def ask(task: str) -> str:
            return str(inner.invoke({"messages": [("user", task)]})["messages"][-1].text)

        @tool
        def cards(task: str) -> str:
            """Ask the agent for cards."""
            if not by_hand:
                return ask(task)
            with on_behalf_of([HumanMessage("an odd wish")]):
                return ask(task)

        # A gate of the front agent that stops nothing.
        sure = FakeClassifier(lambda text: by_words("clear"))
        before = [UncertaintyGate(sure, policy, name="front")] if front_gate else []
        self.agent: Any = create_agent(
            ScriptedModel(script=front), [cards], middleware=before, checkpointer=InMemorySaver()
        )

    def say(self, *messages: str | AIMessage) -> Any:
        given = [HumanMessage(m) if isinstance(m, str) else m for m in messages]
        return start(self.agent, {"messages": given}, CONFIG)

    def asked(self) -> tuple[str, Any]:
        ((name, request),) = pending(self.agent, CONFIG).items()
        return name, request

    def answer(self, answer: Any) -> Any:
        return resume(self.agent, CONFIG, {self.asked()[0]: answer})


def task(text: str = "freeze the card, it is clear", n: int = 1) -> AIMessage:
    return calls(("cards", {"task": text}), start=n)


def freeze(card: str = "blue", n: int = 11) -> AIMessage:
    return calls(("freeze", {"card": card}), start=n)


class TestTheUsersWords:
    def test_are_scored_and_not_the_task_that_the_calling_model_wrote(self) -> None:
        bank = Bank(front=[task(), DONE], back=[freeze(), DONE])
        bank.say("an odd wish")
        assert bank.fake.seen == ["an odd wish"]
        assert bank.frozen == []
        bank.answer(APPROVE)
        assert bank.frozen == ["blue"]
        assert bank.fake.seen == ["an odd wish"]

    async def test_are_scored_in_async_runs_too(self) -> None:
        fake, frozen = FakeClassifier(by_words), []

        @tool
        async def freeze_card(card: str) -> str:
            """Freeze a card."""
            frozen.append(card)
            return "frozen"

        inner: Any = create_agent(
            ScriptedModel(script=[calls(("freeze_card", {"card": "blue"})), DONE]),
            [freeze_card],
            middleware=[UncertaintyGate(fake, Policy(0.8, 0.01))],
        )

        @tool
        async def cards(task: str) -> str:
            """Ask the agent for cards."""
            return str((await inner.ainvoke({"messages": [("user", task)]}))["messages"][-1].text)

        sure = FakeClassifier(lambda text: by_words("clear"))
        agent: Any = create_agent(
            ScriptedModel(script=[task(), DONE]),
            [cards],
            middleware=[UncertaintyGate(sure, Policy(0.8, 0.01))],
            checkpointer=InMemorySaver(),
        )
        state = await agent.ainvoke({"messages": [("user", "an odd wish")]}, CONFIG)
        assert fake.seen == ["an odd wish"]
        assert frozen == []
        (question,) = state["__interrupt__"]
        await agent.ainvoke(Command(resume={question.id: APPROVE}), CONFIG)
        assert frozen == ["blue"]

    def test_are_handed_down_by_hand_where_the_calling_agent_has_no_gate(self) -> None:
        bank = Bank(front=[task(), DONE], back=[freeze(), DONE], front_gate=False, by_hand=True)
        bank.say("something else")
        assert bank.fake.seen == ["an odd wish"]

    def test_reach_an_agent_below_the_one_that_was_called(self) -> None:
        fake = FakeClassifier(by_words)
        gate = UncertaintyGate(fake, Policy(0.8, 0.01))

        @tool
        def act() -> str:
            """Act."""
            return "did"

        def calling(name: str, agent: Any) -> BaseTool:
            def ask(task: str) -> str:
                return str(agent.invoke({"messages": [("user", task)]})["messages"][-1].text)

            return tool(name, description="Ask it.")(ask)

        sure = FakeClassifier(lambda text: by_words("clear"))
        lowest = create_agent(
            ScriptedModel(script=[calls(("act", {})), DONE]), [act], middleware=[gate]
        )
        # Two gates of one agent, of which the second must not take the first one's for a caller's.
        middle = create_agent(
            ScriptedModel(script=[calls(("lowest", {"task": "clear"})), DONE]),
            [calling("lowest", lowest)],
            middleware=[UncertaintyGate(sure, Policy(0.8, 0.01), name=n) for n in ("a", "b")],
        )
        top: Any = create_agent(
            ScriptedModel(script=[calls(("middle", {"task": "clear"})), DONE]),
            [calling("middle", middle)],
            middleware=[UncertaintyGate(sure, Policy(0.8, 0.01), name="c")],
            checkpointer=InMemorySaver(),
        )
        top.invoke({"messages": [("user", "an odd wish")]}, CONFIG)
        assert fake.seen == ["an odd wish"]

    def test_of_two_calls_at_once_each_has_its_own(self) -> None:
        bank = Bank(
            front=[calls(("cards", {"task": "one"}), ("cards", {"task": "two"})), DONE],
            back=[freeze("blue", 11), freeze("red", 12), DONE, DONE],
        )
        bank.say("a clear wish")
        assert set(bank.fake.seen) == {"a clear wish"}
        assert sorted(bank.frozen) == ["blue", "red"]

    def test_that_did_not_come_are_said_to_be_missing(self) -> None:
        bank = Bank(front=[task("odd"), DONE], back=[freeze(), DONE], front_gate=False)
        bank.say("a clear wish")
        assert bank.fake.seen == ["odd"]
        (action,) = bank.asked()[1]["action_requests"]
        assert "the task that another agent wrote, not the user's words" in action["description"]

    def test_that_did_not_come_escalate_by_option(self) -> None:
        bank = Bank(
            front=[task("clear"), DONE],
            back=[freeze(), DONE],
            front_gate=False,
            require_user_text=True,
        )
        bank.say("a clear wish")
        assert bank.fake.seen == []
        (action,) = bank.asked()[1]["action_requests"]
        assert "the user's words did not come" in action["description"]

    def test_need_not_come_where_the_agent_talks_to_the_user(self) -> None:
        fake = FakeClassifier(by_words)
        gate = UncertaintyGate(fake, Policy(0.8, 0.01), require_user_text=True)

        @tool
        def act() -> str:
            """Act."""
            return "did"

        agent: Any = create_agent(
            ScriptedModel(script=[calls(("act", {})), DONE]),
            [act],
            middleware=[gate],
            checkpointer=InMemorySaver(),
        )
        state = agent.invoke({"messages": [("user", "clear")]}, CONFIG)
        assert "__interrupt__" not in state
        assert fake.seen == ["clear"]

    def test_that_consent_are_the_request_they_answer_for_one_act(self) -> None:
        bank = Bank(front=[task(), task(n=2), DONE], back=[freeze(), DONE, freeze("red", 12), DONE])
        bank.say("a clear wish", AIMessage("Shall I freeze it?"), "yes")
        assert bank.fake.seen == ["a clear wish"]
        assert bank.frozen == ["blue"]  # not the second one
        (action,) = bank.asked()[1]["action_requests"]
        assert "consent was for one act" in action["description"]


class TestAQuestion:
    def test_reaches_the_user_through_the_calling_agent(self) -> None:
        bank = Bank(front=[task(), DONE], back=[freeze(), freeze(n=12), DONE])
        bank.say("a vague wish")
        _, request = bank.asked()
        (action,) = request["action_requests"]
        assert action["name"] == "ask_user"
        assert action["args"]["text"] == "a vague wish"
        state = bank.answer("the blue one")
        assert bank.fake.seen == ["a vague wish", "a vague wish\nthe blue one"]
        assert bank.frozen == ["blue"]
        assert state["messages"][-1].text == "done"

    @pytest.mark.parametrize("answer", ["neither", REJECT, {**REJECT, "message": "freeze me"}])
    def test_that_is_declined_brings_a_reviewer(self, answer: Any) -> None:
        bank = Bank(front=[task(), DONE], back=[freeze(), freeze(n=12), DONE])
        bank.say("a vague wish")
        bank.answer(answer)
        assert bank.frozen == []
        (action,) = bank.asked()[1]["action_requests"]
        assert action["name"] == "freeze"
        assert "none of these" in action["description"]
        assert set(bank.fake.seen) == {"a vague wish"}
        bank.answer(APPROVE)
        assert bank.frozen == ["blue"]

    def test_is_put_as_often_as_allowed(self) -> None:
        bank = Bank(
            front=[task(), DONE],
            back=[freeze(n=n) for n in (11, 12, 13)] + [DONE],
            policy=Policy(0.8, 0.01, max_clarifications=2),
        )
        bank.say("vague")
        bank.answer("vague, too")
        bank.answer("as vague as before")
        (action,) = bank.asked()[1]["action_requests"]
        assert action["name"] == "freeze"
        assert "asked 2 times" in action["description"]

    def test_sent_twice_does_not_settle_the_review_behind_it(self) -> None:
        bank = Bank(front=[task(), DONE], back=[freeze(), freeze(n=12), DONE])
        bank.say("a vague wish")
        name, _ = bank.asked()
        words = {"type": "respond", "message": "an odd one"}
        resume(bank.agent, CONFIG, {name: words})
        assert bank.asked()[0] != name
        with pytest.raises(ThreadError, match="answered already"):
            resume(bank.agent, CONFIG, {name: words})
        assert bank.frozen == []

    async def test_reaches_the_user_in_async_runs_too(self) -> None:
        fake = FakeClassifier(by_words)
        seen = []

        @tool
        def act() -> str:
            """Act."""
            seen.append(1)
            return "did"

        agent: Any = create_agent(
            ScriptedModel(script=[calls(("act", {})), calls(("act", {}), start=2), DONE]),
            [act],
            middleware=[UncertaintyGate(fake, Policy(0.8, 0.01), clarify="interrupt")],
            checkpointer=InMemorySaver(),
        )
        state = await agent.ainvoke({"messages": [("user", "vague")]}, CONFIG)
        (question,) = state["__interrupt__"]
        await agent.ainvoke(Command(resume={question.id: "this one"}), CONFIG)
        assert fake.seen == ["vague", "vague\nthis one"]
        assert seen == [1]


@pytest.mark.parametrize("mode", ["batched", "per_call"])
def test_a_question_by_interrupt_where_the_agent_talks_to_the_user(mode: Any) -> None:
    fake, did = FakeClassifier(by_words), []

    @tool
    def act(n: int) -> str:
        """Act."""
        did.append(n)
        return "did"

    model = ScriptedModel(
        script=[
            calls(("act", {"n": 1}), ("act", {"n": 2})),
            calls(("act", {"n": 1}), start=3),
            DONE,
        ]
    )
    gate = UncertaintyGate(fake, Policy(0.8, 0.01), clarify="interrupt", interrupt_mode=mode)
    agent: Any = create_agent(model, [act], middleware=[gate], checkpointer=InMemorySaver())
    start(agent, {"messages": [("user", "vague")]}, CONFIG)
    ((name, request),) = pending(agent, CONFIG).items()  # one question for the two calls
    assert request["action_requests"][0]["name"] == "ask_user"
    state = resume(agent, CONFIG, {name: "the first"})
    assert did == [1]
    kinds = [(m.type, str(m.content)[:8]) for m in model.heard[1]]
    assert kinds[-4:-2] == [("tool", "Not run:")] * 2
    assert kinds[-1] == ("human", "the firs")
    assert state["messages"][-1].text == "done"


def supervised(clarify: Any, script: list[AIMessage], back: list[AIMessage]) -> tuple[Any, Any]:
    fake = FakeClassifier(by_words)
    frozen = []

    @tool
    def freeze(card: str) -> str:
        """Freeze a card."""
        frozen.append(card)
        return "frozen"

    gate = UncertaintyGate(fake, Policy(0.8, 0.01), clarify=clarify)
    worker: Any = create_agent(
        ScriptedModel(script=back), [freeze], middleware=[gate], name="cards"
    )
    graph = create_supervisor([worker], model=ScriptedModel(script=script))
    return graph.compile(checkpointer=InMemorySaver()), frozen


def to_cards(n: int) -> AIMessage:
    return calls(("transfer_to_cards", {}), start=n)


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
class TestASupervisor:
    def test_cannot_make_a_question_go_round_for_ever(self) -> None:
        """It keeps the question to itself and hands the task back at once."""
        agent, _ = supervised(
            "message", [to_cards(n) for n in range(100, 130)], [freeze(n=n) for n in range(30)]
        )
        start(agent, {"messages": [("user", "a vague wish")]}, CONFIG)
        ((_, request),) = pending(agent, CONFIG).items()
        (action,) = request["action_requests"]
        assert action["name"] == "freeze"
        assert "asked and has not answered" in action["description"]

    def test_lets_the_question_through(self) -> None:
        agent, frozen = supervised(None, [to_cards(100), DONE], [freeze(), freeze(n=12), DONE])
        start(agent, {"messages": [("user", "a vague wish")]}, CONFIG)
        ((name, request),) = pending(agent, CONFIG).items()
        assert request["action_requests"][0]["name"] == "ask_user"
        resume(agent, CONFIG, {name: "the blue one"})
        assert frozen == ["blue"]


def swarm(user: str) -> tuple[Any, FakeClassifier, list[str]]:
    """A greeter without a gate, and an agent for cards with one."""
    fake = FakeClassifier(by_words)
    frozen: list[str] = []

    @tool
    def freeze(card: str) -> str:
        """Freeze a card."""
        frozen.append(card)
        return "frozen"

    to_cards = create_handoff_tool(agent_name="cards")
    to_greeter = create_handoff_tool(agent_name="greeter")
    gate = UncertaintyGate(fake, Policy(0.8, 0.01), tools=["freeze"], acts={"freeze": "yes"})
    greeter: Any = create_agent(
        ScriptedModel(script=[calls(("transfer_to_cards", {}), start=1), DONE]),
        [to_cards],
        name="greeter",
    )
    cards: Any = create_agent(
        ScriptedModel(
            script=[
                calls(("freeze", {"card": "blue"}), start=2),
                calls(("transfer_to_greeter", {}), start=3),
            ]
        ),
        [freeze, to_greeter],
        middleware=[gate],
        name="cards",
    )
    graph = create_swarm([greeter, cards], default_active_agent="greeter")
    agent: Any = graph.compile(checkpointer=InMemorySaver())
    start(agent, {"messages": [("user", user)]}, CONFIG)
    return agent, fake, frozen


class TestASwarm:
    def test_lets_a_sure_call_run_and_hands_on(self) -> None:
        agent, fake, frozen = swarm("a clear wish")
        assert fake.seen == ["a clear wish"]
        assert frozen == ["blue"]
        assert agent.get_state(CONFIG).values["active_agent"] == "greeter"

    @pytest.mark.parametrize(("answer", "ran"), [(APPROVE, ["blue"]), (REJECT, [])])
    def test_waits_for_a_reviewer(self, answer: Any, ran: list[str]) -> None:
        agent, fake, frozen = swarm("an odd wish")
        ((name, _),) = pending(agent, CONFIG).items()
        assert frozen == []
        state = resume(agent, CONFIG, {name: answer})
        assert frozen == ran
        assert fake.seen == ["an odd wish"]
        assert state["messages"][-1].text == "done"


@pytest.mark.parametrize("run", ["sync", "async"])
async def test_without_a_checkpointer_the_first_call_of_the_model_says_so(run: str) -> None:
    gate = UncertaintyGate(FakeClassifier(by_words), Policy(0.8, 0.01))
    model = ScriptedModel(script=[DONE])
    agent: Any = create_agent(model, [], middleware=[gate])
    said: dict[str, Any] = {"messages": [("user", "clear")]}
    call: Callable[[], Any] = lambda: agent.invoke(said)  # noqa: E731
    with pytest.raises(ValueError, match="no checkpointer, so UncertaintyGate can ask nobody"):
        await agent.ainvoke(said) if run == "async" else call()
    assert model.heard == []


def test_how_to_ask_is_checked() -> None:
    with pytest.raises(ValueError, match="`clarify`"):
        UncertaintyGate(FakeClassifier(by_words), Policy(0.8, 0.01), clarify="mail")  # type: ignore[arg-type]
