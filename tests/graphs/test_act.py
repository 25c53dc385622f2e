from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bayeslora_tool.graphs.runs import recover, start

from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import CONFIG, build, refused


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        ({"scores": np.arange(3), "by": (np.bool_(True),)}, {"scores": [0, 1, 2], "by": [True]}),
        (torch.tensor([1.0, 2.0]), [1.0, 2.0]),
        ({"plain": [1, "two", None]}, {"plain": [1, "two", None]}),
    ],
)
def test_what_an_action_gives_is_kept_as_plain_data(given: Any, kept: Any) -> None:
    graph = build(FakeClassifier(by_words), act=lambda outcome: given)
    assert start(graph, {"text": "clear"}, CONFIG)["result"] == kept
    assert graph.get_state(CONFIG).values["result"] == kept


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "given", [object(), lambda: 0, 2**70, {1j: 2}, nested(5000)], ids=lambda x: type(x).__name__
)
def test_what_no_checkpoint_can_hold_neither_wedges_the_thread_nor_repeats_the_action(
    given: Any,
) -> None:
    acted: list[str] = []

    def act(outcome: Any) -> Any:
        acted.append(outcome["key"])
        return given

    graph = build(FakeClassifier(by_words), act=act)
    start(graph, {"text": "clear"}, CONFIG)
    refused("finished", lambda: recover(graph, CONFIG))
    start(graph, {"text": "clear again"}, CONFIG)
    assert len(acted) == len(set(acted)) == 2
