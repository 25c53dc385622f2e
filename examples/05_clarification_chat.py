"""Ask the user what they mean before acting, and a colleague if that does not help.

    python examples/05_clarification_chat.py           a scripted user
    python examples/05_clarification_chat.py --chat    you are the user

The thresholds are by hand, to ask often; `bayeslora calibrate` writes ones that keep a promise.
"""

import sys
from collections.abc import Callable, Iterator
from uuid import uuid4

from bayeslora_tool.graphs.runs import pending, resume, start
from langgraph.checkpoint.memory import InMemorySaver

from bayeslora_tool import BayesLoRAClassifier, Policy, create_escalation_graph
from bayeslora_tool.review.clarification import CLARIFY_ACTION

POLICY = Policy(tau_conf=0.97, tau_var=0.25, on_low_confidence="clarify", max_clarifications=1)
SCRIPT = ["it's about my card", "i lost my card and need to report it", "florgle", "wumpus", ""]


def scripted(lines: Iterator[str]) -> Callable[[str], str]:
    def say(prompt: str) -> str:
        line = next(lines)
        print(prompt + line)
        return line

    return say


def main(say: Callable[[str], str]) -> None:
    classifier = BayesLoRAClassifier.from_pretrained("intents")
    builder = create_escalation_graph(classifier=classifier, policy=POLICY)
    graph = builder.compile(checkpointer=InMemorySaver())
    while text := say("you:   ").strip():  # an empty line ends the chat
        thread = {"configurable": {"thread_id": uuid4().hex}}
        state = start(graph, {"text": text}, thread)
        while waiting := pending(graph, thread):
            ((name, request),) = waiting.items()
            asked = request["action_requests"][0]
            if asked["name"] == CLARIFY_ACTION:
                print("agent:", asked["args"]["question"])
                answer = say("you:   ")
            else:
                print("agent: A colleague will get back to you.")
                answer = {"type": "reject", "message": "to be called back"}
            state = resume(graph, thread, {name: answer})
        if state["outcome"]["decision"] == "proceed":
            print(f"agent: Understood: {state['outcome']['label'].replace('_', ' ')}.")


if __name__ == "__main__":
    main(input if "--chat" in sys.argv else scripted(iter(SCRIPT)))
