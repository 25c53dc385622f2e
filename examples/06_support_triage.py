"""A support desk whose actions are real: they change a SQLite file, once for each request.

    python examples/06_support_triage.py

An action may run again after a crash: the request's key, stored with the change, makes that safe.
"""

import sqlite3
from contextlib import closing
from tempfile import TemporaryDirectory

from bayeslora_tool.graphs.runs import pending, resume, start
from bayeslora_tool.graphs.state import Outcome
from langgraph.checkpoint.memory import InMemorySaver

from bayeslora_tool import BayesLoRAClassifier, create_escalation_graph, load_preset

SCHEMA = """CREATE TABLE done (key PRIMARY KEY, answer); CREATE TABLE desk (what, state);
INSERT INTO desk VALUES ('order', 'shipped'), ('card', 'active'), ('dinner', 'booked')"""
SAY = "'your ' || what || ' is ' || state"
ACTIONS = {  # what the desk does for an intent, and says
    "order_status": f"SELECT {SAY} FROM desk WHERE what = 'order'",
    "order_checks": f"INSERT INTO desk VALUES ('chequebook', 'ordered') RETURNING {SAY}",
    "report_lost_card": f"UPDATE desk SET state = 'blocked' WHERE what = 'card' RETURNING {SAY}",
    "cancel_reservation": f"UPDATE desk SET state = 'off' WHERE what = 'dinner' RETURNING {SAY}",
}
TICKETS = ["where is my order, has it shipped yet", "please cancel my dinner reservation",
           "order more checks for my checking account", "my purse fell into the lake"]  # fmt: skip


def main(file: str) -> None:
    def act(outcome: Outcome) -> str:
        key, action = outcome["key"], ACTIONS.get(outcome["label"] or "", "SELECT 'not our desk'")
        with closing(sqlite3.connect(file)) as db, db:  # commits all of it, or nothing
            if db.execute("INSERT OR IGNORE INTO done VALUES (?, NULL)", [key]).rowcount:
                (answer,) = db.execute(action).fetchone()
                db.execute("UPDATE done SET answer = ? WHERE key = ?", [answer, key])
            return str(db.execute("SELECT answer FROM done WHERE key = ?", [key]).fetchone()[0])

    preset = load_preset("cautious")
    classifier = BayesLoRAClassifier.from_preset(preset)
    builder = create_escalation_graph(classifier=classifier, policy=preset.policy, act=act)
    graph = builder.compile(checkpointer=InMemorySaver())
    with closing(sqlite3.connect(file)) as db:
        db.executescript(SCHEMA)
        for text in TICKETS:
            thread = {"configurable": {"thread_id": text}}
            state = start(graph, {"text": text}, thread)
            for name in pending(graph, thread):  # a reviewer knows what was in the purse
                edit = {"name": "act_on_label", "args": {"label": "report_lost_card"}}
                state = resume(graph, thread, {name: {"type": "edit", "edited_action": edit}})
            print(f"{text}\n  by {state['outcome']['decided_by']}: {state['result']}")
            act(state["outcome"])  # as after a crash: the same key changes nothing
        print("desk:", *(" ".join(row) for row in db.execute("SELECT * FROM desk")), sep="\n  ")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(f"{folder}/desk.sqlite")
