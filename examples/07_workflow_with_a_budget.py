"""Several steps, each behind its own gate, and limits on what the whole run may risk.

python examples/07_workflow_with_a_budget.py
"""

from bayeslora_tool.graphs.runs import pending, resume, start
from bayeslora_tool.graphs.workflow import Step, WorkflowState, create_workflow_graph
from langgraph.checkpoint.memory import InMemorySaver

from bayeslora_tool import BayesLoRAClassifier, load_preset

CLEAR = (
    "book a hotel room in denver for two nights; rent a car in denver; cancel my dinner reservation"
)
ODD = "book a hotel room in denver for two nights; florgle wumpus zabble; wumpus the florgle"


def make_step(i: int, name: str) -> Step:
    def text(state: WorkflowState) -> str:
        return state["request"].split("; ")[i]

    return Step(name=name, text=text, act=lambda outcome, state: f"{outcome['label']} done")


def main() -> None:
    preset = load_preset("cautious")
    classifier = BayesLoRAClassifier.from_preset(preset)

    def run(request: str, max_error_probability: float) -> None:
        builder = create_workflow_graph(
            steps=[make_step(i, name) for i, name in enumerate(["first", "second", "third"])],
            classifier=classifier,
            policy=preset.policy,
            max_escalations=1,
            max_error_probability=max_error_probability,
        )
        graph = builder.compile(checkpointer=InMemorySaver())
        thread = {"configurable": {"thread_id": "1"}}
        print(f"{request}\n  limits: 1 review, error probability {max_error_probability:g}")
        state = start(graph, {"request": request}, thread)
        while waiting := pending(graph, thread):
            ((name, asked),) = waiting.items()
            print("  review:", asked["action_requests"][0]["description"].splitlines()[0])
            reply = {"type": "respond", "message": "settled on the phone"}  # stands for the step
            state = resume(graph, thread, {name: reply})
        for name, result in state["results"].items():
            print(f"  {name}: {result} (by {state['outcomes'][name]['decided_by']})")
        print(f"  error probability: at most {state['error_probability']:.2g}")
        print(f"  {state['ending']['kind']}: {state['ending']['reason']}\n")

    run(CLEAR, max_error_probability=0.2)
    run(ODD, max_error_probability=0.2)  # the second doubtful step finds no reviewer left
    run(CLEAR, max_error_probability=1e-6)  # hardly any risk: even sure steps need a person


if __name__ == "__main__":
    main()
