"""Each example as a reader would run it: in a process of its own, cut off from the world."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.server_process import offline

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the one example whose name begins with a number; gives what it printed."""

    def run(number: str, *arguments: str, stdin: str = "") -> str:
        (file,) = EXAMPLES.glob(f"{number}_*.py")
        done = subprocess.run(
            [sys.executable, str(file), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env=offline(tmp_path),
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return done.stdout

    return run


def in_order(output: str, *parts: str) -> None:
    """Each part is a regular expression that begins a line, after the one before."""
    at = 0
    for part in parts:
        found = re.compile(rf"^\s*{part}", re.MULTILINE).search(output, at)
        assert found, f"no line begins with {part!r} in:\n{output[at:]}"
        at = found.end()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_can_be_read_at_a_glance(name: str) -> None:
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert f"python examples/{name}" in "\n".join(lines)
    assert name in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_predict_routes_each_text(run: Run) -> None:
    in_order(
        run("01"),
        "'where is my order",
        "proceed: order_status$",
        "Sure enough: ",
        "'please cancel",
        "proceed: cancel_reservation$",
        "'florgle",
        "(clarify|escalate): ",
    )


def test_the_agent_obeys_the_tool(run: Run) -> None:
    in_order(
        run("02"),
        "tool:  action=proceed label=cancel_reservation ",
        r"agent: Done: cancel reservation\.",
        "tool:  action=(clarify|escalate) ",
        "agent: (Before I do anything|I have passed this on)",
    )


def test_the_gate_stops_the_doubtful_call_and_the_one_that_does_not_fit(run: Run) -> None:
    output = run("03")
    assert output.count("reviewer is asked") == 2
    in_order(
        output,
        "user:     put a freeze",
        "agent:    The tool says: the account of Ada is frozen",
        "user:     see to it",
        "reviewer is asked: ",
        "reviewer: approve",
        "agent:    The tool says: the account of Ada is frozen",
        "user:     how do you say good morning",
        ".*reads as 'translate' .* the agent wants `freeze_account`",
        "reviewer: reject",
        "agent:    The tool says: A reviewer rejected this call",
    )


@pytest.mark.slow
def test_a_gate_behind_another_agent_reads_what_the_user_wrote(run: Run) -> None:
    output = run("12")
    assert output.count("reviewer is asked") == 1
    in_order(
        output,
        "user:     put a freeze",
        "agent:    It is frozen.",
        "user:     how do you say good morning",
        "reviewer is asked: .*reads as 'translate' .* the agent wants `freeze_account`",
        "agent:    A reviewer rejected this call",
    )


def test_a_review_is_answered_in_a_process_that_loads_no_model(run: Run) -> None:
    in_order(
        run("04"),
        "waiting for a reviewer: ",
        "Text:",
        r"\| my purse",
        "decided by: human",
        "result: report_lost_card is done",
        "model loaded in this process: False",
    )


SCRIPTED_CHAT = (
    "agent: I am not sure what you mean",
    r"agent: Understood: report lost card\.",
    "agent: I am not sure what you mean",
    r"agent: A colleague will get back to you\.",
)


@pytest.mark.slow
def test_the_scripted_user_is_asked_before_anything_is_done(run: Run) -> None:
    output = run("05")
    assert output.count("agent:") == len(SCRIPTED_CHAT)
    in_order(output, *SCRIPTED_CHAT)


@pytest.mark.slow
def test_a_real_user_may_type(run: Run) -> None:
    output = run("05", "--chat", stdin="please cancel my dinner reservation\n\n")
    assert output.count("agent:") == 1
    assert "agent: Understood: cancel reservation." in output


def test_the_desk_does_each_thing_once(run: Run) -> None:
    output = run("06")
    in_order(
        output,
        "by model: your order is shipped",
        "by model: your dinner is off",
        "by model: your chequebook is ordered",
        "by human: your card is blocked",
    )
    desk = output[output.index("desk:") :].split("\n  ")[1:]
    things = ["order shipped", "card blocked", "dinner off", "chequebook ordered"]
    assert [line.strip() for line in desk] == things


@pytest.mark.slow
def test_a_run_stops_when_its_budget_is_spent(run: Run) -> None:
    clear, odd, strict = run("07").strip().split("\n\n")
    assert "review: " not in clear
    in_order(clear, "first: book_hotel", "second: car_rental", "third: cancel_res", "finished: ")
    in_order(
        odd,
        "review: Step 'second': ",
        r"first: book_hotel done \(by model\)",
        r"second: settled on the phone \(by human\)",
        "stopped: budget: Step 'third': ",
    )
    in_order(
        strict,
        "review: Step 'first': Sure enough: .* But the run's error probability would reach",
        r"error probability: at most 0$",
        "stopped: budget: Step 'second': Sure enough: ",
    )


@pytest.mark.slow
def test_the_sweep_is_measured_and_drawn(run: Run, tmp_path: Path) -> None:
    output = run("08", str(tmp_path / "sweep"))
    in_order(
        output,
        r"no gate: [1-7] of 7 wrong, 0 asked",
        r"intents: \d of 7 wrong, [1-7] asked",
        r"confidence alone \(intents\): ",
        r"cheapest of \d+ tried: intents, tau_conf ",
    )
    png = tmp_path / "sweep" / "sweep.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert str(png) in output


@pytest.mark.slow
def test_a_tsv_becomes_an_adapter_and_a_policy(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    in_order(
        run("09", str(tmp_path / "mine")),
        "# By `bayeslora calibrate`: at most 3.0% wrong among what proceeds,",
        "calibrated_for: adapter ",
        "please refund the tent",
        "proceed: Sure enough: 'refund' ",
        "a question about my tent",
        "(clarify|escalate): ",
    )
    assert (tmp_path / "mine" / "adapter" / "bayeslora.json").is_file()
    assert (tmp_path / "mine" / "policy.yaml").is_file()


@pytest.mark.slow
def test_an_mcp_client_gets_a_structured_answer(run: Run) -> None:
    in_order(
        run("10"),
        "classify_with_uncertainty: ",
        "'where is my order",
        '"action": "proceed"',
        '"label": "order_status"',
        "'florgle",
        '"action": "(clarify|escalate)"',
    )


@pytest.mark.slow
def test_a_simulated_user_is_asked_and_answers(run: Run) -> None:
    pytest.importorskip("openevals.simulators")
    in_order(
        run("11"),
        "user: it's about my card",
        "assistant: I am not sure what you mean",
        "user: i lost my card",
        "assistant: Done: report_lost_card",
    )


@pytest.mark.slow
def test_decision_models_are_answered_and_gated(run: Run) -> None:
    in_order(
        run("13"),
        "'how do you say good morning",
        "goes to the small model",
        "'they took my wallet",
        "goes to the other model",
        r"escalate: There is no variance to hold against `tau_var`",
        r"proceed: Sure enough: 'calm' with confidence 1\.000 .* no variance",
    )


@pytest.mark.slow
def test_an_agents_own_doubt_stops_the_vague_call(run: Run) -> None:
    output = run("14")
    assert output.count("reviewer is asked") == 2
    in_order(
        output,
        "user:     freeze my checking account",
        r"tool:     freeze_account\(checking\)",
        r"agent:    It is done\.",
        "user:     put my account on hold",
        "reviewer is asked: .*'freeze_account' with confidence 0",
        "reviewer: approve",
        r"tool:     freeze_account\(unnamed\)",
        "user:     my money",
        r"reviewer is asked: The model takes '\(something else\)' for likelier",
        "reviewer: reject",
        "user:     tell me a joke",
        "agent:    I cannot do that here",
    )
    assert output.count("tool: ") == 2


def test_two_reviewers_answer_at_a_desk_and_each_decision_is_carried_out_once(run: Run) -> None:
    output = run("15")
    assert output.count("  ann: ") == 3
    assert len(re.findall(r"  bob: review \w+ was decided by ann at ", output)) == 3
    in_order(
        output,
        "waits: my purse",
        "freeze_account: ",
        "ann: approve",
        "waits: how do you say freeze",
        "ann: reject",
        "waits: send 900",
        "transfer_money: ",
        "ann: approve",
        "applied applied applied$",
        r"my purse.*: The account is frozen",
        r"how do you say.*: A reviewer rejected this call",
        r"send 900.*: 900 sent to Ada",
        "the record is as it was written: True",
    )
