"""An agent's doubtful calls wait at a desk, and two reviewers answer them over HTTP.

    python examples/15_review_desk.py

Needs the [agents] and [desk] extras. `bayeslora desk serve` runs on loopback; the reviewers are
programs here, but could sit at its page. What they decide is carried out once, by the agent's side.
"""

import subprocess
import sys
from tempfile import TemporaryDirectory

import httpx
from bayeslora_tool.graphs.runs import start
from langgraph.checkpoint.memory import InMemorySaver

from bayeslora_tool import BayesLoRAClassifier, load_preset
from bayeslora_tool.desk import Desk, Ledger
from bayeslora_tool.serving.bank_chat import create_bank_chat  # an agent with an UncertaintyGate

TEXTS = ("my purse is lost or stolen", "how do you say freeze in italian", "send 900 to Ada, quick")


def reviewer(desk: str, name: str, token: str) -> httpx.Client:
    client = httpx.Client(base_url=f"{desk}/api/v1", trust_env=False)
    secret = client.post("/session", json={"name": name, "token": token}).json()["secret"]
    client.headers["Authorization"] = f"Bearer {secret}"
    return client


def main(file: str) -> None:
    preset, ledger = load_preset("cautious"), Ledger(file)
    desk, classifier = Desk(ledger), BayesLoRAClassifier.from_preset(preset)
    agent = desk.watch(create_bank_chat(classifier, preset.policy, InMemorySaver()), name="bank")
    threads = {text: {"configurable": {"thread_id": text}} for text in TEXTS}
    for text, thread in threads.items():
        start(agent, {"messages": [("user", text)]}, thread)
    tokens = {name: ledger.people.add(name) for name in ("ann", "bob")}
    serve = [sys.executable, "-m", "bayeslora_tool", "desk", "serve", "-l", file, "--port", "8315"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().split()[-1].rstrip("/")  # open http://127.0.0.1:8315
        people = {name: reviewer(address, name, token) for name, token in tokens.items()}
        for waiting in people["ann"].get("/reviews").json()["reviews"]:
            print(f"waits: {waiting['text']}\n  {waiting['tool']}: {waiting['reason']}")
            decision = "reject" if "italian" in waiting["text"] else "approve"
            path, body = f"/reviews/{waiting['id']}/decision", {"answer": {"type": decision}}
            for name, client in people.items():
                told = client.post(path, json=body)
                print(f"  {name}: {decision if told.is_success else told.json()['message']}")
        server.terminate()
    print(*(applied.result for applied in desk.apply()))
    for text, thread in threads.items():
        print(f"{text}: {agent.get_state(thread).values['messages'][-1].content}")
    print("the record is as it was written:", not ledger.verify())


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(f"{folder}/desk.sqlite")
