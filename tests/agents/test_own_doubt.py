"""A gate that goes by the doubt of the model that wrote the call."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware, wrap_tool_call
from langchain_core.messages import AIMessage
from langgraph.types import Command

from bayeslora_tool.agents import Act, UncertaintyGate
from bayeslora_tool.chat import ChatBayesLoRA
from bayeslora_tool.policy import Policy
from tests.agents.desk import APPROVE, CONFIG, DONE, Desk, asked, edit, order
from tests.chat.fake_language_model import FakeLanguageModel
from tests.fakes import FakeClassifier, by_words
from tests.scripted_model import calls

POLICY = Policy(tau_conf=0.8, tau_var=0.01, on_low_confidence="escalate")
ASK = replace(POLICY, on_low_confidence="clarify")


def written(*wanted: tuple[str, dict[str, Any]]) -> str:
    return "".join(
        f"<tool_call>{json.dumps({'name': name, 'arguments': args})}</tool_call>"
        for name, args in wanted
    )


class Agent(Desk):
    """Whose model writes some calls, and "done" when they are answered."""

    def __init__(
        self,
        *wanted: tuple[str, dict[str, Any]],
        policy: Policy = POLICY,
        others: Any = (),
        believes: dict[str, float] | None = None,
        variance: float = 0.001,
        **gate: Any,
    ) -> None:
        self.language = FakeLanguageModel(
            lambda messages: "done" if messages[-1]["role"] == "tool" else written(*wanted),
            believes or {},
            variance,
        )
        self.gate = UncertaintyGate(None, policy, signal="model", **gate)
        super().__init__(
            (), self.gate, *others, model=lambda script: ChatBayesLoRA(model=self.language)
        )

    def ask(self) -> dict[str, Any]:
        return self.say("order a chair")


def why(state: dict[str, Any]) -> str:
    (request,) = asked(state)["action_requests"]
    return str(request["description"])


MODES = pytest.mark.parametrize("mode", ["batched", "per_call"])


def question(state: dict[str, Any], mode: str) -> str:
    if mode == "batched":
        return why(state)
    return str(asked(state)["description"] if "description" in asked(state) else asked(state))


@MODES
def test_a_sure_call_runs_and_nobody_is_asked(mode: Any) -> None:
    agent = Agent(order("chair"), interrupt_mode=mode)
    assert agent.ask()["messages"][-1].content == "done"
    assert agent.did == [("chair", 1)]


@MODES
def test_the_models_own_doubt_is_what_stops_a_call(mode: Any) -> None:
    for doubt in ({"believes": {"order": 0.6}}, {"variance": 0.02}):
        agent = Agent(order("chair"), interrupt_mode=mode, **doubt)
        state = agent.ask()
        assert agent.did == []
        assert "'order'" in question(state, mode)
        assert "order a chair" in question(state, mode)
        answer = {"decisions": [APPROVE]} if mode == "batched" else APPROVE
        assert agent.answer(answer)["messages"][-1].content == "done"
        assert agent.did == [("chair", 1)]


@MODES
async def test_async_runs_are_gated_alike(mode: Any) -> None:
    agent = Agent(order("chair"), believes={"order": 0.6}, interrupt_mode=mode)
    state = await agent.agent.ainvoke({"messages": [("user", "order a chair")]}, CONFIG)
    assert "0.600" in question(state, mode)
    answer = {"decisions": [APPROVE]} if mode == "batched" else APPROVE
    await agent.agent.ainvoke(Command(resume=answer), CONFIG)
    assert agent.did == [("chair", 1)]


def test_each_call_of_a_message_has_its_own_verdict() -> None:
    agent = Agent(
        order("chair"),
        order("lamp", 7),
        believes={"7}": 0.5},
        acts={"order": Act(sure_arguments=("n",))},
        interrupt_mode="per_call",
    )
    state = agent.ask()
    assert agent.did == [("chair", 1)]
    assert len(state["__interrupt__"]) == 1


def test_a_call_that_the_model_finds_less_likely_than_none_is_stopped() -> None:
    agent = Agent(order("chair"), believes={"order": 0.05})
    assert "takes '(something else)' for likelier than its call of `order`" in why(agent.ask())


@pytest.mark.parametrize("likely", [0.5, 0.02])
def test_an_argument_that_must_be_sure_and_is_not_stops_the_call(likely: float) -> None:
    acts = {"order": Act(sure_arguments=("n",))}
    agent = Agent(order("chair"), believes={"1}": likely}, acts=acts)
    said = why(agent.ask())
    assert "argument `n`" in said or "another value of `n`" in said
    assert agent.did == []
    # One that need not be sure stops none, and a sure one neither.
    assert Agent(order("chair"), believes={"1}": likely}).ask()["messages"][-1].content == "done"
    sure = Agent(order("chair"), acts=acts)
    sure.ask()
    assert sure.did == [("chair", 1)]


def test_an_argument_that_must_be_sure_has_to_be_there() -> None:
    acts = {"look": Act(sure_arguments=("user",)), "order": Act()}
    agent = Agent(("look", {"item": "lamp"}), acts=acts)
    assert "the call leaves `user` out, which must be sure" in why(agent.ask())


def test_an_act_may_forbid_ask_its_check_and_bring_its_own_policy() -> None:
    agent = Agent(order("chair"), acts={"look": Act()})
    assert "No label leads to `order`" in why(agent.ask())
    agent = Agent(order("chair", 9), acts={"order": Act(check=lambda args, _: args["n"] < 5)})
    assert "do not pass its check" in why(agent.ask())
    agent = Agent(order("chair"), acts={"order": Act(policy=replace(POLICY, tau_conf=0.99))})
    assert "(< 0.99)" in why(agent.ask())


def test_a_user_is_asked_where_the_policy_says_so() -> None:
    for look in (0.4, 0.01):  # "(something else)" is no offer
        agent = Agent(order("chair"), policy=ASK, believes={"order": 0.5, "look": look})
        assert 'Is it about "order" or "look"?' in agent.ask()["messages"][-1].content
        assert agent.did == []
    agent = Agent(order("chair"), policy=ASK, believes={"order": 0.6}, ask=lambda *_: "What?")
    assert agent.ask()["messages"][-1].content == "What?"


class Writes(AgentMiddleware[Any, Any, Any]):
    """Puts another message in the place of the model's."""

    def __init__(self, change: Callable[[AIMessage], AIMessage]) -> None:
        super().__init__()
        self.change = change

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        last = state["messages"][-1]
        return {"messages": [self.change(last)]} if last.tool_calls else None


def with_call(message: AIMessage, **changed: Any) -> AIMessage:
    call = {**message.tool_calls[0], **changed}
    return message.model_copy(update={"tool_calls": [call]})


@MODES
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: with_call(m, args={"item": "throne", "n": 1}), "changed after the model wrote"),
        (lambda m: with_call(m, args={"item": "chair", "n": True}), "changed after the model"),
        (lambda m: with_call(m, name="look", args={"item": "chair"}), "changed after the model"),
        (lambda m: with_call(m, id="other"), "added after the model wrote"),
        (lambda m: m.model_copy(update={"response_metadata": {}}), "says no doubt about it"),
        (
            lambda m: m.model_copy(update={"response_metadata": {"doubt": {"tokens": []}}}),
            "let ChatBayesLoRA be the agent's model",
        ),
    ],
)
def test_a_call_that_the_model_did_not_write_so_is_stopped(
    mode: Any, change: Any, said: str
) -> None:
    # Listed after the gate, so that it comes first: the gate sees what it leaves.
    agent = Agent(order("chair"), others=[Writes(change)], interrupt_mode=mode)
    assert said in question(agent.ask(), mode)
    assert agent.did == []


@pytest.mark.parametrize(
    "broken", [{"variance": -1.0}, {"confidence": "0.9"}, {"label": "look"}, {}]
)
def test_a_doubt_that_cannot_be_trusted_stops_the_call(broken: dict[str, Any]) -> None:
    def change(message: AIMessage) -> AIMessage:
        (entry,) = message.response_metadata["doubt"]["calls"]
        choice = {**entry["choice"], **broken} if broken else {"label": "order"}
        doubt = {"tokens": [], "calls": [{**entry, "choice": choice}]}
        return message.model_copy(update={"response_metadata": {"doubt": doubt}})

    agent = Agent(order("chair"), others=[Writes(change)])
    assert "cannot be read" in why(agent.ask())
    assert agent.did == []


@MODES
def test_a_call_that_changes_on_its_way_to_the_tool_is_stopped(mode: Any) -> None:
    @wrap_tool_call
    def dearer(request: Any, handler: Any) -> Any:
        call = {**request.tool_call, "args": {**request.tool_call["args"], "n": 99}}
        return handler(request.override(tool_call=call))

    gate = UncertaintyGate(None, POLICY, signal="model", interrupt_mode=mode)
    language = FakeLanguageModel(
        lambda m: "done" if m[-1]["role"] == "tool" else written(order("chair"))
    )
    desk = Desk((), dearer, gate, model=lambda script: ChatBayesLoRA(model=language))
    state = desk.say("order a chair")
    assert "changed after the model wrote it" in question(state, "per_call")
    assert desk.did == []


async def test_async_calls_that_change_on_their_way_are_stopped() -> None:
    @wrap_tool_call
    async def dearer(request: Any, handler: Any) -> Any:
        call = {**request.tool_call, "args": {**request.tool_call["args"], "n": 99}}
        return await handler(request.override(tool_call=call))

    gate = UncertaintyGate(None, POLICY, signal="model")
    language = FakeLanguageModel(
        lambda m: "done" if m[-1]["role"] == "tool" else written(order("chair"))
    )
    desk = Desk((), dearer, gate, model=lambda script: ChatBayesLoRA(model=language))
    state = await desk.agent.ainvoke({"messages": [("user", "order a chair")]}, CONFIG)
    assert "changed after the model wrote it" in question(state, "per_call")
    assert desk.did == []


def test_another_model_has_no_doubt_to_go_by() -> None:
    gate = UncertaintyGate(None, POLICY, signal="model")
    desk = Desk([calls(order("chair")), DONE], gate)
    assert "says no doubt about it" in why(desk.say("order a chair"))


def test_a_reviewers_edit_runs_without_another_question() -> None:
    agent = Agent(order("chair"), believes={"order": 0.6})
    agent.ask()
    agent.answer({"decisions": [edit(item="stool", n=2)]})
    assert agent.did == [("stool", 2)]


def test_a_second_gate_by_a_classifier_may_stand_beside_it() -> None:
    reads = UncertaintyGate(FakeClassifier(by_words), POLICY, name="reads")
    for text, ran in (("clear", [("chair", 1)]), ("odd", [])):
        agent = Agent(order("chair"), others=[reads])
        agent.say(text)
        assert agent.did == ran


def test_what_a_gate_cannot_mean_is_refused() -> None:
    classifier = FakeClassifier(by_words)
    with pytest.raises(ValueError, match=r"`signal` .*must be 'classifier' or 'model'"):
        UncertaintyGate(None, POLICY, signal="own")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pass None as the `classifier`"):
        UncertaintyGate(classifier, POLICY, signal="model")
    with pytest.raises(ValueError, match="pass None as the `classifier`"):
        UncertaintyGate(None, POLICY, signal="model", require_user_text=True)
    with pytest.raises(ValueError, match="`timeout` out"):
        UncertaintyGate(None, POLICY, signal="model", timeout=1.0)
    with pytest.raises(TypeError, match="`classifier` must have predict"):
        UncertaintyGate(None, POLICY)
    for act in ("order", Act(labels="order"), Act(classifier=classifier)):
        with pytest.raises(ValueError, match="the label is the tool itself"):
            UncertaintyGate(None, POLICY, signal="model", acts={"order": act})
    acts = {"order": Act(labels="clear", sure_arguments=("n",))}
    with pytest.raises(ValueError, match="sure_arguments`: only the model"):
        UncertaintyGate(classifier, POLICY, acts=acts)
    with pytest.raises(TypeError, match="list of names, not one str"):
        UncertaintyGate(None, POLICY, signal="model", acts={"order": Act(sure_arguments="n")})


def test_the_state_and_its_events_hold_no_value_of_an_argument() -> None:
    told_of: list[Any] = []
    acts = {"order": Act(sure_arguments=("item",))}
    agent = Agent(order("gold"), believes={"(as written)": 0.5}, acts=acts)
    inputs = {"messages": [("user", "order it")]}
    for event in agent.agent.stream(inputs, CONFIG, stream_mode="custom"):
        told_of.append(event)
    assert told_of
    assert "gold" not in json.dumps(told_of)
