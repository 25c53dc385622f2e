"""Put a gate in front of an agent's tools: sure calls run, doubtful ones wait for a reviewer.

    python examples/03_gate_in_an_agent.py

Needs the [agents] extra. The model wants the same call in each conversation; the gate reads what
the user wrote, and stops the call where that is unclear, or clear and something else.
"""

from bayeslora_tool.graphs.runs import pending, resume, start
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from scripted_chat import ScriptedChat, call

from bayeslora_tool import BayesLoRAClassifier, load_preset
from bayeslora_tool.agents.middleware import UncertaintyGate


@tool
def freeze_account(owner: str) -> str:
    """Freeze the bank account of its owner."""
    return f"the account of {owner} is frozen"


def freeze_then_report(messages: list[BaseMessage]) -> AIMessage:
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(f"The tool says: {last.content}")
    return call("freeze_account", owner="Ada")


def main() -> None:
    preset = load_preset("cautious")
    classifier = BayesLoRAClassifier.from_preset(preset)
    acts = {"freeze_account": {"freeze_account", "report_lost_card", "report_fraud"}}
    gate = UncertaintyGate(classifier, preset.policy, acts=acts)
    model = ScriptedChat(reply=freeze_then_report)  # or init_chat_model("PROVIDER:MODEL")
    agent = create_agent(model, [freeze_account], middleware=[gate], checkpointer=InMemorySaver())
    for text in (
        "put a freeze on my bank account",
        "see to it that nobody can touch my money for a while",
        "how do you say good morning in italian",
    ):
        thread = {"configurable": {"thread_id": text}}
        state = start(agent, {"messages": [{"role": "user", "content": text}]}, thread)
        print(f"user:     {text}")
        for name, request in pending(agent, thread).items():  # none if the call ran
            asked = request["action_requests"][0]["description"]
            answer = {"type": "reject" if "the agent wants" in asked else "approve"}
            print(f"reviewer is asked: {asked}\nreviewer: {answer['type']}")
            state = resume(agent, thread, {name: answer})
        print(f"agent:    {state['messages'][-1].content}\n")


if __name__ == "__main__":
    main()
