"""An agent under gates, what its calls and reviewers say, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import InjectedToolArg, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from tests.scripted_model import ScriptedModel

CONFIG: Any = {"configurable": {"thread_id": "1"}}
APPROVE = {"type": "approve"}
DONE = AIMessage("done")


class Desk:
    """An agent with two tools that remember what was done with them."""

    def __init__(
        self,
        script: Sequence[AIMessage],
        *middleware: Any,
        saver: Any = None,
        model: Any = ScriptedModel,
    ) -> None:
        self.did: list[tuple[str, Any]] = []

        @tool
        def order(item: str, n: int) -> str:
            """Order things."""
            self.did.append((item, n))
            return f"ordered {n} {item}"

        @tool
        def look(item: str, user: Annotated[str, InjectedToolArg] = "me") -> str:
            """Look something up."""
            self.did.append((item, user))
            return f"seen {item}"

        self.model = model(script=list(script))
        self.agent: Any = create_agent(
            self.model, [order, look], middleware=middleware, checkpointer=saver or InMemorySaver()
        )

    def say(self, text: str, config: Any = CONFIG) -> dict[str, Any]:
        return self.agent.invoke({"messages": [("user", text)]}, config)

    def answer(self, answer: Any, config: Any = CONFIG) -> dict[str, Any]:
        return self.agent.invoke(Command(resume=answer), config)


def of_the_item(call: Any, state: Any) -> str:
    return str(call["args"]["item"])


def order(item: str, n: int = 1) -> tuple[str, dict[str, Any]]:
    return ("order", {"item": item, "n": n})


def edit(name: str = "order", **args: Any) -> dict[str, Any]:
    return {"type": "edit", "edited_action": {"name": name, "args": args}}


def asked(state: dict[str, Any]) -> dict[str, Any]:
    (interrupt,) = state["__interrupt__"]
    return interrupt.value


def by_item(state: dict[str, Any]) -> dict[str, Any]:
    values = [(i.value.get("action_requests", [i.value])[0], i) for i in state["__interrupt__"]]
    return {action["args"]["item"]: i for action, i in values}


def told(state: dict[str, Any]) -> list[tuple[str, str, str]]:
    messages = [m for m in state["messages"] if isinstance(m, ToolMessage)]
    return [(m.tool_call_id, m.status, str(m.content)) for m in messages]


def assert_every_call_is_answered(messages: Sequence[Any]) -> None:
    made = [call["id"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls]
    assert sorted(made) == sorted(m.tool_call_id for m in messages if isinstance(m, ToolMessage))


LEAF = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5)
KEY = st.sampled_from(
    ["type", "message", "decisions", "edited_action", "name", "args", "action", "item", "n"]
)
WORD = st.sampled_from(
    ["approve", "edit", "reject", "respond", "accept", "ignore", "response", "order", "look"]
)
JUNK = st.recursive(
    LEAF | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=8,
)
EDITS = st.fixed_dictionaries(
    {
        "type": st.just("edit"),
        "edited_action": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["order", "look"]) | JUNK,
                "args": st.dictionaries(st.sampled_from(["item", "n", "user"]), LEAF) | JUNK,
            }
        ),
    }
)
DECISIONS = st.fixed_dictionaries({"type": WORD}, optional={"message": JUNK, "args": JUNK})
ANSWERS = JUNK | EDITS | DECISIONS | st.lists(DECISIONS | EDITS, max_size=2)
