from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.policy import read_acts
from tests.conftest import failed

TOOLS = '''
from langchain_core.tools import tool

def freeze_account(reason: str) -> str:
    """Freeze the customer's bank account, or report a lost or stolen card."""

@tool
def translate(text: str) -> str:
    """Translate a phrase into another language."""
    return text

def yes() -> str:
    """Say yes."""

tools = [freeze_account, translate, yes]
nothing = "freeze_account"
numbers = [1]
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("bank_tools.py").write_text(TOOLS)
    yield
    sys.modules.pop("bank_tools", None)


def test_a_proposal_binds_what_is_alike_and_is_read_back_as_it_was_written(run: Any) -> None:
    result = run("bind", "--tools", "bank_tools:tools", "-o", "acts.yaml")
    assert result.exit_code == 0, result.output
    acts = read_acts("acts.yaml")
    assert "freeze_account" in acts["freeze_account"]
    assert "report_lost_card" in acts["freeze_account"]
    assert acts["translate"][0] == "translate"
    assert "yes" in acts["yes"]  # as text, not as one of YAML's booleans
    assert "timer" not in {label for labels in acts.values() for label in labels}
    assert '#  - "timer"' in Path("acts.yaml").read_text()
    assert failed(run("bind", "--tools", "bank_tools:tools", "-o", "acts.yaml"), "is there already")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bank_tools", "must be MODULE:NAME"),
        ("no_such_module:tools", "No module named 'no_such_module'"),
        ("bank_tools:missing", "has no attribute 'missing'"),
        ("bank_tools:nothing", "must be a list of tools"),
        ("bank_tools:numbers", "neither tool nor function"),
    ],
)
def test_tools_that_are_none_are_refused(run: Any, spec: str, message: str) -> None:
    assert failed(run("bind", "--tools", spec), message)
