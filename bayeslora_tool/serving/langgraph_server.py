"""The escalation graph as ``langgraph dev`` and other agent servers import it; see langgraph.json.

The server brings the checkpointer, threads and HTTP; the model loads with the first run.
"""

from __future__ import annotations

import os
from pathlib import Path

from langgraph.graph import StateGraph

from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.state import EscalationInput, EscalationState
from bayeslora_tool.policy import load_preset
from bayeslora_tool.serving.lazy_classifier import LazyClassifier

PRESET_VARIABLE = "BAYESLORA_PRESET"


def create_served_graph(
    preset: str | Path,
) -> StateGraph[EscalationState, None, EscalationInput, EscalationState]:
    """The escalation graph of a preset, whose classifier loads when it is first needed.

    Args:
        preset: A bundled preset or a YAML file: policy, scoring, adapter.

    Raises:
        ValueError: Unknown or invalid preset, or a damaged adapter.
        FileNotFoundError: No such file or adapter.
    """
    chosen = load_preset(preset)
    return create_escalation_graph(classifier=LazyClassifier(chosen), policy=chosen.policy)


# Chosen by whoever starts the server, never by a request: a preset may name any file.
graph = create_served_graph(os.environ.get(PRESET_VARIABLE) or "intents")
