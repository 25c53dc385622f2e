"""A gate in an agent that another agent calls: it hears the user, not the other agent's task.

    python examples/12_agent_behind_an_agent.py

Needs the [agents] extra. The front agent's model makes the same confident task of everything.
"""

from bayeslora_tool.graphs.runs import pending, resume, start
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from scripted_chat import ScriptedChat, call

from bayeslora_tool import BayesLoRAClassifier, load_preset
from bayeslora_tool.agents import Act, UncertaintyGate, on_behalf_of

preset = load_preset("cautious")
classifier = BayesLoRAClassifier.from_pretrained(preset.adapter, scoring=preset.scoring)
acts = {"freeze_account": Act(labels="freeze_account", allowed_decisions=("approve", "reject"))}


@tool
def freeze_account() -> str:
    """Freeze the user's bank account."""
    return "It is frozen."


@tool
def accounts(task: str, runtime: ToolRuntime) -> str:
    """Hand a task to the agent for accounts."""
    # A gate in the front agent would do the same for all of its tools.
    with on_behalf_of(runtime.state["messages"]):
        state = behind.invoke({"messages": [{"role": "user", "content": task}]})
    return str(state["messages"][-1].content)


def wants(tool_call: AIMessage, messages: list[BaseMessage]) -> AIMessage:
    last = messages[-1]
    return AIMessage(str(last.content)) if isinstance(last, ToolMessage) else tool_call


behind_model = ScriptedChat(reply=lambda said: wants(call("freeze_account"), said))
front_model = ScriptedChat(reply=lambda said: wants(call("accounts", task="Freeze it."), said))
gate = UncertaintyGate(classifier, preset.policy, acts=acts)
behind = create_agent(behind_model, [freeze_account], middleware=[gate])
front = create_agent(front_model, [accounts], checkpointer=InMemorySaver())

for text in ("put a freeze on my bank account", "how do you say good morning in italian"):
    thread = {"configurable": {"thread_id": text}}
    state = start(front, {"messages": [{"role": "user", "content": text}]}, thread)
    print(f"user:     {text}")
    for name, request in pending(front, thread).items():
        print(f"reviewer is asked: {request['action_requests'][0]['description']}")
        state = resume(front, thread, {name: {"type": "reject", "message": "not asked for"}})
    print(f"agent:    {state['messages'][-1].content}\n")
