"""The demo: the real graph on real text, with a person or a script to answer its questions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from uuid import uuid4

import typer
from rich.console import Console
from rich.markup import escape
from rich.prompt import Prompt

from bayeslora_tool.cli.tables import coloured, variance_bar
from bayeslora_tool.cli.terminal import friendly, out
from bayeslora_tool.evaluation.paper_sentences import TABLE_1
from bayeslora_tool.review.clarification import CLARIFY_ACTION
from bayeslora_tool.review.requests import REVIEW_ACTION

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from bayeslora_tool.graphs.state import Outcome
    from bayeslora_tool.policy import Policy


class Case(NamedTuple):
    """A text, and what its scripted user and reviewer say when they are asked."""

    text: str
    user: tuple[str, ...] = ("never mind",)
    reviewer: tuple[dict[str, Any], ...] = ({"type": "approve"},)


def _edit(label: str) -> dict[str, Any]:
    return {
        "type": "edit",
        "edited_action": {"name": REVIEW_ACTION, "args": {"label": label}},
    }


_NO_OPINION = {"type": "reject", "message": "This is no film review."}
_OUT_OF_SCOPE = {"type": "respond", "message": "Sorry, that is not something I can do."}

_FANTASTIC, _HARD, _BETTER, _EARNINGS, _FLORGLE = TABLE_1
SENTIMENT = (
    Case(_FANTASTIC),
    Case(_HARD, reviewer=(_edit("negative"),)),
    Case(_BETTER, user=("I did not like it",), reviewer=(_edit("negative"),)),
    Case(_EARNINGS, reviewer=(_NO_OPINION,)),
    Case(_FLORGLE, reviewer=(_NO_OPINION,)),
)
INTENTS = (
    Case("please transfer forty dollars from my savings to checking"),
    Case("it's about my card", user=("i lost it and need to report it",)),
    Case("book a flight", user=("i want to fly from boston to denver next friday",)),
    Case("my card", user=("i lost it, please block it",), reviewer=(_edit("report_lost_card"),)),
    Case("what is the average lifespan of a tortoise", reviewer=(_OUT_OF_SCOPE,)),
    Case("write me a poem about my landlord's dog", reviewer=(_OUT_OF_SCOPE,)),
)


def demo(
    auto: Annotated[
        bool, typer.Option("--auto", help="Scripted answers even at a terminal.")
    ] = False,
) -> None:
    """See agents proceed, ask and call for help, on real text and the bundled adapters.

    At a terminal you answer the questions; otherwise scripted users and reviewers do.
    """
    with friendly():
        run_demo(out, interactive=sys.stdin.isatty() and out.is_terminal and not auto)


def run_demo(console: Console, *, interactive: bool) -> None:
    """Run both bundled adapters through the escalation graph.

    Args:
        console: Where to print.
        interactive: Ask the person at the terminal, instead of the scripts.
    """
    console.print(
        "\nAn agent's step is classified by a small LoRA adapter whose dropout stays on: many "
        "draws give a mean and a variance.\nSure and steady: [green]proceed[/]. Unsure: "
        "[yellow]clarify[/] with the user. Unsteady, or far from all it was tuned on: "
        "[red]escalate[/] to a human.\n"
    )
    for preset, title, cases in (
        ("sentiment", "sentiment - the five sentences of the paper's Table 1", SENTIMENT),
        ("intents", "intents - requests to an assistant, some vague, some out of scope", INTENTS),
    ):
        console.rule(f"[bold]{title}[/]", align="left")
        _run(console, preset, cases, interactive=interactive)
    console.print(
        "[bold]Try next[/]\n"
        '  bayeslora predict "your own sentence"             one text, routed\n'
        '  bayeslora predict -p intents "my card is gone"    another adapter and policy\n'
        "  bayeslora doctor                                  is everything as it should be?\n"
        "  bayeslora train --help                            an adapter for your own labels\n",
        highlight=False,
    )


def _run(console: Console, name: str, cases: Sequence[Case], *, interactive: bool) -> None:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.types import Command

    from bayeslora_tool.graphs.escalation import create_escalation_graph
    from bayeslora_tool.policy import load_preset
    from bayeslora_tool.review.answer_types import check_answer

    preset = load_preset(name)
    with console.status(f"loading {preset.adapter}"):
        from bayeslora_tool.classifier import BayesLoRAClassifier

        classifier = BayesLoRAClassifier.from_preset(preset)
    policy = preset.policy
    console.print(
        f"{len(classifier.labels)} labels, {preset.scoring.estimator}; proceed at confidence >= "
        f"{policy.tau_conf:.3g} and variance <= {policy.tau_var:.2g} (mid-bar)\n"
    )
    builder = create_escalation_graph(
        classifier=classifier, policy=policy, act=lambda outcome: f"acted on {outcome['label']}"
    )
    graph = builder.compile(checkpointer=InMemorySaver())
    for case in cases:
        config: RunnableConfig = {"configurable": {"thread_id": str(uuid4())}}
        console.print(f"[bold]{escape(case.text)}[/]", highlight=False)
        answers = _person(console) if interactive else _script(console, case)
        state = graph.invoke({"text": case.text}, config)
        _show_route(console, state, policy)
        while "__interrupt__" in state:
            (asked,) = state["__interrupt__"]
            answer = answers(asked.value)
            try:
                check_answer(asked.value, asked.response_schema, answer)
            except ValueError as error:
                console.print(f"  [red]not understood:[/] {escape(str(error))}", highlight=False)
                continue
            state = graph.invoke(Command(resume={asked.id: answer}), config)
            _show_route(console, state, policy)
        _show_outcome(console, state["outcome"], state["result"])


def _show_route(console: Console, state: dict[str, Any], policy: Policy) -> None:
    prediction, route = state["prediction"], state["route"]
    if state["outcome"] and state["outcome"]["decided_by"] == "human":
        return
    if prediction:
        console.print(
            f"  mean {prediction['confidence']:.3f} {escape(prediction['label'])}   "
            f"variance {variance_bar(prediction['variance'], policy.tau_var)}   "
            f"{coloured(route['action'])}",
            highlight=False,
        )
    console.print(f"  [dim]{escape(route['reason'])}[/]", highlight=False)


def _show_outcome(console: Console, outcome: Outcome, result: str | None) -> None:
    done = result or f"{outcome['decision']}: {outcome['message']}"
    console.print(f"  => {escape(done)}  [dim](decided by {outcome['decided_by']})[/]\n")


def _script(console: Console, case: Case) -> Callable[[dict[str, Any]], Any]:
    user, reviewer = iter(case.user), iter(case.reviewer)

    def answer(request: dict[str, Any]) -> Any:
        action = request["action_requests"][0]
        if action["name"] == CLARIFY_ACTION:
            said = next(user, case.user[-1])
            console.print(f"  [yellow]question:[/] {escape(action['args']['question'])}")
            console.print(f"  [yellow]scripted user:[/] {escape(said)}")
            return said
        decision = next(reviewer, case.reviewer[-1])
        detail = decision.get("message") or decision.get("edited_action", {}).get("args", "")
        console.print(f"  [red]scripted reviewer:[/] {decision['type']} {escape(str(detail))}")
        return decision

    return answer


def _person(console: Console) -> Callable[[dict[str, Any]], Any]:
    def answer(request: dict[str, Any]) -> Any:
        action = request["action_requests"][0]
        allowed = request["review_configs"][0]["allowed_decisions"]
        console.print(f"  {escape(action['description'])}", style="yellow")
        if action["name"] == CLARIFY_ACTION:
            return Prompt.ask("  your answer", console=console)
        words = Prompt.ask(
            f"  you review: {' | '.join(allowed)} (edit LABEL, respond WORDS)", console=console
        )
        kind, _, rest = words.strip().partition(" ")
        return _edit(rest) if kind == "edit" else {"type": kind, "message": rest or None}

    return answer
