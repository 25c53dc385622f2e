"""Calibrated, task-specific doubt for LangGraph agents.

Importing this package is instant: torch and its kin load with the first name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayeslora_tool.classifier import BayesLoRAClassifier
    from bayeslora_tool.graphs.escalation import create_escalation_graph
    from bayeslora_tool.graphs.gate import create_gate_graph
    from bayeslora_tool.graphs.resume import pending, recover, resume, start
    from bayeslora_tool.graphs.thread import ThreadError
    from bayeslora_tool.graphs.workflow import Step, create_workflow_graph
    from bayeslora_tool.middleware import AnswerGate, UncertaintyGate
    from bayeslora_tool.policy import Decision, Policy, Preset, Scoring, decide, load_preset
    from bayeslora_tool.posterior import AdapterPosterior
    from bayeslora_tool.prediction import Prediction
    from bayeslora_tool.tool import BayesLoRATool

_HOME = {
    "AdapterPosterior": "posterior",
    "AnswerGate": "middleware",
    "BayesLoRAClassifier": "classifier",
    "BayesLoRATool": "tool",
    "Decision": "policy",
    "Policy": "policy",
    "Prediction": "prediction",
    "Preset": "policy",
    "Scoring": "policy",
    "Step": "graphs.workflow",
    "ThreadError": "graphs.thread",
    "UncertaintyGate": "middleware",
    "create_escalation_graph": "graphs.escalation",
    "create_gate_graph": "graphs.gate",
    "create_workflow_graph": "graphs.workflow",
    "decide": "policy",
    "load_preset": "policy",
    "pending": "graphs.resume",
    "recover": "graphs.resume",
    "resume": "graphs.resume",
    "start": "graphs.resume",
}

__all__ = [
    "AdapterPosterior",
    "AnswerGate",
    "BayesLoRAClassifier",
    "BayesLoRATool",
    "Decision",
    "Policy",
    "Prediction",
    "Preset",
    "Scoring",
    "Step",
    "ThreadError",
    "UncertaintyGate",
    "create_escalation_graph",
    "create_gate_graph",
    "create_workflow_graph",
    "decide",
    "load_preset",
    "pending",
    "recover",
    "resume",
    "start",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
