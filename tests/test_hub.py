"""Adapters of a hub answer as they do alone, in whatever company, on one copy of the backbone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from peft import LoraConfig, get_peft_model
from torch import nn

from bayeslora_tool import AdapterHub, BayesLoRAClassifier, Policy, UncertaintyGate
from bayeslora_tool.agents import Act
from bayeslora_tool.artifacts.backbone_model import load_with_new, quiet, whole_modules
from bayeslora_tool.inference import mixed
from bayeslora_tool.inference.mixed import MixedNetwork
from bayeslora_tool.policy import Estimator
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.training.recipe import DEFAULT_BACKBONE
from tests.backbones import save_backbone
from tests.scripted_model import ScriptedModel, calls

TEXTS = [
    "good", "a lovely film", "poor bad book a bad day", "fine play a fine day", "bad",
    "a good book a good day", "lovely meal",
]  # fmt: skip
ESTIMATORS: list[Estimator] = ["deterministic", "linearized", "monte_carlo", "adaptive"]
# Three adapters that differ in what they adapt, save and distinguish.
ADAPTERS: dict[str, dict[str, Any]] = {
    "two": {"labels": ["bad", "good"], "target_modules": "all-linear"},
    "three": {"labels": ["bad", "so so", "good"], "target_modules": "all-linear", "r": 2},
    "five": {"labels": [*"abcde"], "target_modules": None, "bias": "lora_only"},
}
ATTENTION = {"gpt2": ["c_attn"], "deberta-v2": ["query_proj"], "mpnet": ["attn.q"]}


def save_adapter(folder: Path, base: Path, kind: str, name: str) -> Path:
    settings = dict(ADAPTERS[name])
    labels = settings.pop("labels")
    targets = settings.pop("target_modules") or ATTENTION.get(kind, ["query"])
    seed = len(labels)
    torch.manual_seed(seed)
    with quiet():
        backbone, random = load_with_new(base, labels)
        new = [m for m in whole_modules(backbone, random) if m not in ("classifier", "score")]
        config = LoraConfig(
            task_type="SEQ_CLS", lora_dropout=0.2, target_modules=targets,
            modules_to_save=new or None, exclude_modules=".*pooler.*" if new else None,
            **{"r": 4, "lora_alpha": 8} | settings,
        )  # fmt: skip
        model = get_peft_model(backbone, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder / name, save_embedding_layers=False)
    return folder / name


def close(found: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    assert len(found) == len(expected)
    for p, q in zip(found, expected, strict=True):
        assert (p.label, p.estimator, p.variance_from) == (q.label, q.estimator, q.variance_from)
        assert p.probabilities == pytest.approx(q.probabilities, abs=2e-5)
        assert p.variance == pytest.approx(q.variance, rel=2e-3, abs=1e-8, nan_ok=True)
        assert p.sureness == pytest.approx(q.sureness, abs=1e-3)


@pytest.mark.parametrize(
    "kind",
    ["bert", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("roberta", *ATTENTION))],
)
def test_a_text_is_answered_in_mixed_company_as_alone(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = save_backbone(tmp_path / "base", kind)
    policy = Policy(0.6, 0.01)
    hub, alone = AdapterHub(base, device="cpu"), {}
    for i, name in enumerate(ADAPTERS):
        folder = save_adapter(tmp_path, base, kind, name)
        noise: Any = {"placement": ["rank", "input"][i % 2], "scope": ["sequence", "token"][i // 2]}
        hub.add(name, folder, policy=policy, **noise)
        alone[name] = BayesLoRAClassifier.from_pretrained(
            folder, base=base, device="cpu", policy=policy, **noise
        )
    tasks = [(name, text) for text in TEXTS for name in ADAPTERS][::-1]
    for estimator in ESTIMATORS:
        found = hub.predict(
            tasks, estimator=estimator, **{"n_draws": 5} if "c" in estimator else {}
        )
        expected = [
            alone[name].predict(
                [text], estimator=estimator, **{"n_draws": 5} if "c" in estimator else {}
            )[0]
            for name, text in tasks
        ]
        close(found, expected)
    apart = "each adapter is run by itself: the layers of adapter"
    assert (apart in caplog.text) == (kind == "deberta-v2")


def test_a_layer_may_have_the_adapter_of_one_alone_or_of_none_in_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ADAPTERS, "key", {"labels": ["x", "y"], "target_modules": ["key"]})
    base = save_backbone(tmp_path / "base", "bert")
    hub = AdapterHub(base, device="cpu")
    for name in ("five", "two", "key"):
        hub.add(name, save_adapter(tmp_path, base, "bert", name))
    for names in (["two", "five"], ["five", "key"], ["key", "five"]):
        tasks = [(name, text) for text in TEXTS for name in names]
        alone = [hub[name].predict([text], estimator="linearized")[0] for name, text in tasks]
        close(hub.predict(tasks, estimator="linearized"), alone)


@pytest.fixture(scope="module")
def bundled() -> AdapterHub:
    hub = AdapterHub(DEFAULT_BACKBONE)
    hub.add("intents", preset="intents")
    hub.add("sentiment", preset="sentiment")
    hub.add("plain", "sentiment")
    return hub


QUESTIONS = ["what is my balance", "a great film", "how do i book a flight to rome", "mmmm", "no"]


def test_bundled_adapters_keep_their_policies_acts_and_references(bundled: AdapterHub) -> None:
    tasks = [(name, text) for text in QUESTIONS for name in bundled if name != "plain"]
    found = bundled.predict(tasks)
    for name in ("intents", "sentiment"):
        alone = BayesLoRAClassifier.from_preset(name)
        assert bundled[name].scored_by() == alone.scored_by()
        assert bundled[name].labels == alone.labels
        close([p for p, task in zip(found, tasks, strict=True) if task[0] == name],
              alone.predict(QUESTIONS))  # fmt: skip


def test_the_frozen_weights_are_there_once(bundled: AdapterHub) -> None:
    storages = [
        {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in (*c.network.model.parameters(), *c.network.model.buffers())
        }
        for c in bundled.values()
    ]
    together: dict[int, int] = {}
    for storage in storages:
        together |= storage
    assert sum(together.values()) < 1.1 * sum(storages[0].values())


def test_texts_of_several_adapters_share_a_pass(
    bundled: AdapterHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    real = MixedNetwork.linearize

    def counted(self: MixedNetwork, batch: Any) -> Any:
        batches.append({name: len(texts) for name, texts in batch.items()})
        return real(self, batch)

    monkeypatch.setattr(MixedNetwork, "linearize", counted)
    bundled.predict([("intents", "hello"), ("plain", "hello")], estimator="linearized")
    assert batches[-1] == {"intents": 1, "plain": 1}

    async def at_once() -> list[list[Prediction]]:
        classifiers = [bundled["intents"], bundled["sentiment"]] * 4
        return await asyncio.gather(
            *(c.apredict(["hello there"], estimator="linearized") for c in classifiers)
        )

    batches.clear()
    found = asyncio.run(at_once())
    assert [p.label for (p,) in found[:2]] == [
        bundled[name].predict(["hello there"])[0].label for name in ("intents", "sentiment")
    ]
    assert {"intents", "sentiment"} in [{*batch} for batch in batches]


def test_threads_do_not_meet(bundled: AdapterHub) -> None:
    tasks = [(name, text) for text in QUESTIONS for name in bundled]
    expected = bundled.predict(tasks, estimator="linearized")
    rounds = [tasks[i:] + tasks[:i] for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda some: bundled.predict(some, estimator="linearized"), rounds)]
    for i, some in enumerate(found):
        close(some, expected[i:] + expected[:i])


def test_adapters_are_loaded_by_threads_as_by_one(tmp_path: Path) -> None:
    """PEFT, which makes modules without memory for a while, would do so for all threads."""
    base = save_backbone(tmp_path / "base", "bert")
    folder, names = save_adapter(tmp_path, base, "bert", "two"), [*"abcdefgh"]
    hub = AdapterHub(base)
    with ThreadPoolExecutor(4) as pool:
        taken = [*pool.map(lambda name: hub.add(name, folder), names)]
    assert {*hub} == {*names}
    assert not nn.Linear(2, 2).weight.is_meta
    expected = taken[0].predict(TEXTS, estimator="linearized")
    for name in names:
        close(hub.predict([(name, text) for text in TEXTS], estimator="linearized"), expected)

    def again(_: int) -> bool:
        try:
            hub.add("twice", folder)
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(again, range(2))) == [False, True]


def test_an_adapter_added_later_joins_the_others(tmp_path: Path) -> None:
    base = save_backbone(tmp_path / "base", "bert")
    hub = AdapterHub(base)
    hub.add("two", save_adapter(tmp_path, base, "bert", "two"))
    before = hub.predict([("two", text) for text in TEXTS], estimator="linearized")
    hub.add("three", save_adapter(tmp_path, base, "bert", "three"))
    tasks = [(name, text) for text in TEXTS for name in hub]
    close(hub.predict(tasks, estimator="linearized")[::2], before)


def test_whatever_mixing_missed_is_found_before_the_first_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = save_backbone(tmp_path / "base", "roberta")
    hub = AdapterHub(base)
    for name in ("two", "three"):
        hub.add(name, save_adapter(tmp_path, base, "roberta", name))
    tasks = [(name, text) for text in TEXTS for name in hub]
    expected = [hub[name].predict([text], estimator="linearized")[0] for name, text in tasks]
    rows = mixed._each_its_rows

    def exchanged(*inputs: Any) -> Any:
        return ((1 - adapter, *own) for adapter, *own in rows(*inputs))

    monkeypatch.setattr(mixed, "_each_its_rows", exchanged)
    with caplog.at_level(logging.WARNING):
        close(hub.predict(tasks, estimator="linearized"), expected)
    assert "does not answer among the others as it does alone" in caplog.text


class TestRefusals:
    """What does not fit is said with its name."""

    def test_a_name_that_is_taken(self, bundled: AdapterHub) -> None:
        with pytest.raises(ValueError, match=r"`name` \(='plain'\) is taken"):
            bundled.add("plain", "intents")

    def test_an_adapter_of_another_backbone(self, bundled: AdapterHub, tiny_adapter: Path) -> None:
        with pytest.raises(ValueError, match=r"is not the one the adapter was trained with"):
            bundled.add("other", tiny_adapter)
        assert "other" not in bundled

    @pytest.mark.parametrize("name", ["base", "device", "dtype", "quantization_config", "frozen"])
    def test_what_all_have_in_common(self, bundled: AdapterHub, name: str) -> None:
        with pytest.raises(TypeError, match=f"`{name}` is the same for all adapters of a hub"):
            bundled.add("own", "intents", **{name: None})

    def test_another_noise_than_the_preset_was_calibrated_for(self, bundled: AdapterHub) -> None:
        with pytest.raises(ValueError, match=r"with `dropout` \(=0.3\) all would escalate"):
            bundled.add("loud", preset="sentiment", dropout=0.3)

    def test_a_name_that_nobody_has(self, bundled: AdapterHub) -> None:
        with pytest.raises(ValueError, match=r"tasks\[1\]: no adapter 'nobody' in this hub, which"):
            bundled.predict([("plain", "a film"), ("nobody", "a film")])

    @pytest.mark.parametrize(
        "task", ["a film", 3, ("plain",), ("plain", "a", "film"), (["a"], "b")]
    )
    def test_what_is_no_pair(self, bundled: AdapterHub, task: Any) -> None:
        with pytest.raises(TypeError, match=r"tasks\[0\] .* must be \(adapter, text\)"):
            bundled.predict([task])

    def test_a_text_that_is_none(self, bundled: AdapterHub) -> None:
        with pytest.raises(ValueError, match=r"texts\[0\]"):
            bundled.predict([("plain", "")])

    def test_nothing_to_do(self, bundled: AdapterHub) -> None:
        assert bundled.predict([]) == []


def test_a_gate_takes_another_adapter_for_each_tool(bundled: AdapterHub) -> None:
    ran = []

    @tool
    def transfer(amount: int) -> str:
        """Move money."""
        ran.append("transfer")
        return "moved"

    @tool
    def publish(review: str) -> str:
        """Publish a review."""
        ran.append("publish")
        return "published"

    gate = UncertaintyGate(
        bundled["intents"],
        Policy(0.5, 0.25),
        acts={
            "transfer": "transfer",
            "publish": Act(
                labels="positive",
                classifier=bundled["plain"],
                policy=Policy(0.9, 0.25),
                text=lambda call, state: call["args"]["review"],
            ),
        },
    )
    praise, blame = {"review": "This film was fantastic!"}, {"review": "A dreadful, boring film."}
    model = ScriptedModel(
        script=[
            calls(("transfer", {"amount": 40}), ("publish", praise)),
            calls(("publish", blame)),
        ]
    )
    agent = create_agent(
        model, [transfer, publish], middleware=[gate], checkpointer=InMemorySaver()
    )
    run: Any = {"configurable": {"thread_id": "1"}}
    words = HumanMessage("please move forty dollars from savings to checking")
    state = agent.invoke({"messages": [words]}, run)
    assert sorted(ran) == ["publish", "transfer"]  # each by the adapter of its own tool
    (asked,) = state["__interrupt__"]
    assert [a["name"] for a in asked.value["action_requests"]] == ["publish"]
