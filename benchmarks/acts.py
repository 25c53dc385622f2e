"""What binding labels to acts buys where an agent calls the wrong tool.

    python examples/clinc150_to_tsv.py data_full.json clinc150
    python benchmarks/acts.py clinc150

CLINC150's 150 intents lead to 30 tools (``acts.yaml``). A scripted model calls the right tool for
a test text, but in a tenth of the turns another, at random; for an out-of-scope text any call is
wrong. Each turn goes through a real agent. A person who is asked rejects, so a wrong act that runs
was let through; LangChain's AutoMode blocks, and asks nobody. It is given this classifier as its
decision model, with the same table. The thresholds over acts are calibrated on the validation texts
first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from langchain.agents import create_agent
from langchain.agents.middleware import AutoModeMiddleware, HumanInTheLoopMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from rich import print as show
from rich.progress import track
from rich.table import Table

from bayeslora_tool import BayesLoRAClassifier, Policy, UncertaintyGate, decide, load_preset
from bayeslora_tool.agents import BayesLoRADecisions
from bayeslora_tool.calibration.adapter import predict_all, to_scores
from bayeslora_tool.calibration.guarantee import calibrate
from bayeslora_tool.calibration.thresholds import Goal, Scores, Thresholds
from bayeslora_tool.policy import read_acts
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.training.dataset import LabelledText, read_labelled, read_texts

WRONG = 0.1
TABLE = Path(__file__).with_name("acts.yaml")


class Known:
    """Predictions made before, so that each agent meets the same."""

    def __init__(self, clf: BayesLoRAClassifier, texts: Sequence[str]) -> None:
        self.labels, self.act_of = clf.labels, clf.act_of
        found = predict_all(clf, texts, clf.scoring, lambda n: None)
        self.known = dict(zip(texts, found, strict=True))

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        return [self.known[text] for text in texts]


class Clerk(BaseChatModel):
    """Calls the tool that stands in ``wants`` for the user's last words."""

    wants: dict[str, str]

    @property
    def _llm_type(self) -> str:
        return "clerk"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=list(tools), **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        last = messages[-1]
        said = AIMessage("done")
        if not isinstance(last, ToolMessage):
            call = {"name": self.wants[str(last.text)], "args": {}, "id": "1"}
            said = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=said)])


def main(
    folder: Path,
    texts: Annotated[int, typer.Option(help="Spread over test and out-of-scope texts.")] = 5500,
    seed: int = 0,
) -> None:
    acts = read_acts(TABLE)
    preset = load_preset("intents")
    clf = BayesLoRAClassifier.from_preset(preset)
    over_acts = clf.for_acts(acts)
    show(coverage(clf, over_acts, folder))
    examples = read_labelled(folder / "test.tsv")
    right: dict[str, str | None] = {e.text: over_acts.act_of[e.label] for e in examples}
    right |= dict.fromkeys(read_texts(folder / "oos_test.tsv"))
    some = list(right)[:: -(-len(right) // texts)]
    rng = Random(seed)
    wants = {}
    for text in some:
        wanted = right[text]
        if wanted is None or rng.random() < WRONG:
            wanted = rng.choice([act for act in acts if act != wanted])
        wants[text] = wanted
    labels, merged = Known(clf, some), Known(over_acts, some)
    policy = calibrated(over_acts, folder)

    # Of the same texts as many are asked about as the gate does.
    scored = labels.predict(some)
    stopped = sum(decide(p, preset.policy).action != "proceed" for p in scored)
    least = sorted(p.confidence for p in scored)[stopped]

    def unsure(request: Any) -> bool:
        (p,) = labels.predict([str(request.state["messages"][-2].text)])
        return p.confidence < least

    config: Any = {"allowed_decisions": ["approve", "reject"], "when": unsure}
    agents: dict[str, list[Any]] = {
        "no gate": [],
        "LangChain, when= confidence": [HumanInTheLoopMiddleware(dict.fromkeys(acts, config))],
        "LangChain, AutoMode": [
            AutoModeMiddleware(
                tools=list(acts), classifier=BayesLoRADecisions(classifier=labels, acts=acts)
            )
        ],
        "gate without acts": [_gate(labels, preset.policy)],
        "gate with acts": [_gate(labels, preset.policy, acts=acts)],
        "gate with acts, thresholds over acts": [_gate(merged, policy, acts=acts)],
    }
    table = Table("agent", "wrong acts that run", "right acts that run", "right acts blocked",
                  "a person is asked",
                  title=f"{len(some)} turns, {sum(right[t] != w for t, w in wants.items())} with a "
                  f"wrong call")  # fmt: skip
    for name, middleware in agents.items():
        ran, asked = play(name, some, wants, middleware, list(acts))
        wrong = sum(right[text] != wants[text] for text in ran)
        blocked = sum(right[t] == wants[t] for t in some if t not in ran and t not in asked)
        table.add_row(name, str(wrong), str(len(ran) - wrong), str(blocked), str(len(asked)))
    show(table)


def _gate(clf: Any, policy: Policy, **options: Any) -> UncertaintyGate:
    # A question to the user would wait for an answer that nobody scripted: a reviewer is asked.
    return UncertaintyGate(clf, replace(policy, on_low_confidence="escalate"), **options)


def calibrated(clf: BayesLoRAClassifier, folder: Path) -> Policy:
    """Thresholds over acts with the promise of the bundled preset, from the validation texts."""
    thresholds = _thresholds(clf, folder, 0.02)
    return Policy(*thresholds[:2], tau_novelty=thresholds.tau_novelty, tau_sure=thresholds.tau_sure)


def _thresholds(clf: BayesLoRAClassifier, folder: Path, target_risk: float) -> Thresholds:
    outside = read_texts(folder / "oos_val.tsv") + read_texts(folder / "oos_train.tsv")
    goal = Goal(target_risk=target_risk, max_out_of_scope=0.1 if target_risk == 0.02 else None)
    result = calibrate(_scores(clf, read_labelled(folder / "val.tsv"), outside), goal)
    assert result.feasible
    return result.thresholds


def _scores(
    clf: BayesLoRAClassifier, examples: Sequence[LabelledText], outside: Sequence[str]
) -> Scores:
    texts = [*(e.text for e in examples), *outside]
    found = predict_all(clf, texts, clf.scoring, lambda n: None)
    return to_scores(found, [*(clf.act_of[e.label] for e in examples), *([None] * len(outside))])


def coverage(clf: BayesLoRAClassifier, over_acts: BayesLoRAClassifier, folder: Path) -> Table:
    """What proceeds under thresholds over labels and over acts, with the same promise."""
    examples, outside = read_labelled(folder / "test.tsv"), read_texts(folder / "oos_test.tsv")
    table = Table("thresholds over", "promise", "proceed", "wrong among those", "strangers proceed")
    for name, scorer in (("labels", clf), ("acts", over_acts)):
        test = _scores(scorer, examples, outside)
        for target in (0.02, 0.01):
            passed = _thresholds(scorer, folder, target).passed(test)
            inside = passed & test.in_scope
            table.add_row(
                name,
                f"{target:.0%}",
                f"{inside.sum() / test.in_scope.sum():.1%}",
                f"{(inside & ~test.correct).sum() / inside.sum():.2%}",
                f"{passed[~test.in_scope].mean():.1%}",
            )
    return table


def play(
    name: str,
    texts: Sequence[str],
    wants: dict[str, str],
    middleware: list[Any],
    acts: Sequence[str],
) -> tuple[set[str], set[str]]:
    """The texts whose act ran, and those about which a person was asked."""
    ran: list[bool] = []

    def tool(act: str) -> StructuredTool:
        act_itself: Callable[[], str] = lambda: ran.append(True) or "done"  # type: ignore[func-returns-value]  # noqa: E731
        return StructuredTool.from_function(act_itself, name=act, description=act)

    saver = InMemorySaver()
    agent: Any = create_agent(
        Clerk(wants=wants), [tool(a) for a in acts], middleware=middleware, checkpointer=saver
    )
    acted, reviewed = set(), set()
    for i, text in enumerate(track(texts, name, transient=True)):
        thread: Any = {"configurable": {"thread_id": str(i)}}
        ran.clear()
        state = agent.invoke({"messages": [("user", text)]}, thread)
        if asked := state.get("__interrupt__"):
            reviewed.add(text)
            agent.invoke(Command(resume={asked[0].id: {"decisions": [{"type": "reject"}]}}), thread)
        if ran:
            acted.add(text)
        saver.delete_thread(str(i))
    return acted, reviewed


if __name__ == "__main__":
    typer.run(main)
