"""Give an agent the classifier as a tool; the model reads `action` and obeys it.

    python examples/02_tool_in_an_agent.py

Needs the [agents] extra. Nothing but the model's obedience enforces the action here; where it must
be enforced, put a gate in front of the tools: 03_gate_in_an_agent.py.
"""

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from scripted_chat import ScriptedChat, call

from bayeslora_tool import BayesLoRAClassifier, BayesLoRATool, load_preset


def obey(messages: list[BaseMessage]) -> AIMessage:
    """What a real model does after reading the tool's description."""
    last = messages[-1]
    if not isinstance(last, ToolMessage):
        return call("classify_with_uncertainty", text=last.content)
    (result,) = last.artifact["results"]
    label = result["prediction"]["label"].replace("_", " ")
    return AIMessage(
        {
            "proceed": f"Done: {label}.",
            "clarify": f"Before I do anything: is this about {label}?",
            "escalate": "I have passed this on to a colleague.",
        }[result["decision"]["action"]]
    )


def main() -> None:
    preset = load_preset("intents")
    classifier = BayesLoRAClassifier.from_preset(preset)
    tool = BayesLoRATool(classifier=classifier, policy=preset.policy)
    model = ScriptedChat(reply=obey)  # or init_chat_model("PROVIDER:MODEL"), see scripted_chat.py
    agent = create_agent(model, [tool])
    for text in ("please cancel my dinner reservation", "florgle wumpus zabble"):
        state = agent.invoke({"messages": [{"role": "user", "content": text}]})
        *_, told, answer = state["messages"]
        print(f"user:  {text}\ntool:  {told.content}\nagent: {answer.content}\n")


if __name__ == "__main__":
    main()
