"""A simulated user talks to the graph; openevals drives it (extra `simulate`).

    python examples/11_simulated_user.py

The user is scripted. `create_llm_simulated_user` of openevals gives one played by a model instead.
"""

from langgraph.checkpoint.memory import InMemorySaver
from openevals.simulators import run_multiturn_simulation

from bayeslora_tool import BayesLoRAClassifier, Policy, create_escalation_graph
from bayeslora_tool.simulation.openevals_app import as_simulation_app

# By hand, to ask often; `bayeslora calibrate` writes thresholds that keep a promise.
POLICY = Policy(tau_conf=0.97, tau_var=0.25, on_low_confidence="clarify", max_clarifications=1)
USER = ["it's about my card", "i lost my card and need to report it", "what's my balance"]


def reviewer(request: dict) -> dict:
    """Knows nothing better than to call back."""
    return {"type": "reject", "message": "A colleague will call you back."}


def main() -> None:
    classifier = BayesLoRAClassifier.from_pretrained("intents")
    builder = create_escalation_graph(classifier=classifier, policy=POLICY)
    app = as_simulation_app(builder.compile(checkpointer=InMemorySaver()), review=reviewer)
    result = run_multiturn_simulation(app=app, user=USER, max_turns=len(USER), thread_id="1")
    for message in result["trajectory"]:
        print(f"{message['role']:>9}: {message['content']}")


if __name__ == "__main__":
    main()
