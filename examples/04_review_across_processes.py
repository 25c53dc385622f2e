"""A run waits in SQLite for its reviewer, who answers in another process, minutes or days later.

    python examples/04_review_across_processes.py         both, one after the other
    python examples/04_review_across_processes.py ask FILE
    python examples/04_review_across_processes.py answer FILE

Needs langgraph-checkpoint-sqlite. The answering process loads no model: the score is kept with the
run, and is never made twice.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bayeslora_tool.graphs.runs import pending, resume, start
from langgraph.checkpoint.sqlite import SqliteSaver

from bayeslora_tool import create_escalation_graph, load_preset
from bayeslora_tool.serving.lazy_classifier import LazyClassifier

THREAD = {"configurable": {"thread_id": "ticket-7"}}


def run(role: str, file: str) -> None:
    preset = load_preset("cautious")
    builder = create_escalation_graph(
        classifier=LazyClassifier(preset),
        policy=preset.policy,
        act=lambda outcome: f"{outcome['label']} is done",
    )
    with SqliteSaver.from_conn_string(file) as saver:
        graph = builder.compile(checkpointer=saver)
        if role == "ask":
            start(graph, {"text": "my purse fell into the lake"}, THREAD)
        ((name, request),) = pending(graph, THREAD).items()
        if role == "ask":
            print("waiting for a reviewer:", request["action_requests"][0]["description"])
            return
        edited = {"name": "act_on_label", "args": {"label": "report_lost_card"}}
        state = resume(graph, THREAD, {name: {"type": "edit", "edited_action": edited}})
    print(f"decided by: {state['outcome']['decided_by']}\nresult: {state['result']}")
    print(f"model loaded in this process: {'torch' in sys.modules}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run(*sys.argv[1:])
    else:
        with TemporaryDirectory() as folder:
            for role in ("ask", "answer"):
                file = str(Path(folder) / "runs.sqlite")
                subprocess.run([sys.executable, __file__, role, file], check=True)
