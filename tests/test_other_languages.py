"""English adapters do not act on what they cannot have understood."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.policy import Policy, decide

# ruff: noqa: RUF001  (people's own letters)

FOREIGN = {
    "Spanish": "No lo haga, por favor, cancele todo.",
    "French": "Ne le faites pas, s'il vous plaît, annulez tout.",
    "German": "Bitte tun Sie das nicht, stornieren Sie alles.",
    "Portuguese": "Não faça isso, por favor, cancele tudo.",
    "Italian": "Per favore non lo faccia, annulli tutto.",
    "Dutch": "Doe het alstublieft niet, annuleer alles.",
    "Polish": "Proszę tego nie robić, anulujcie wszystko.",
    "Russian": "Пожалуйста, не делайте этого, отмените всё.",
    "Chinese": "请不要这样做，取消所有操作。",
    "Japanese": "それをしないでください。すべてキャンセルしてください。",
    "Arabic": "من فضلك لا تفعل ذلك، ألغِ كل شيء",
    "Korean": "그러지 마세요. 모두 취소해 주세요.",
}
ENGLISH = {
    "intents": ["what is my account balance?", "freeze my bank account"],
    "sentiment": [
        "a warm and funny film that never loses its charm .",
        "one of the worst movies of the year , dull and lifeless .",
    ],
}


@pytest.fixture(scope="module")
def intents() -> Any:
    return BayesLoRAClassifier.from_pretrained("intents")


@pytest.fixture(params=ENGLISH)
def adapter(request: Any) -> tuple[Any, Policy, list[str]]:
    classifier = request.getfixturevalue(request.param)
    return classifier, Policy.from_preset(request.param), ENGLISH[request.param]


@pytest.mark.parametrize("language", FOREIGN)
def test_foreign_text_is_brought_to_a_person(
    adapter: tuple[Any, Policy, list[str]], language: str
) -> None:
    classifier, policy, english = adapter
    policy = replace(policy, calibrated_for=None)
    foreign = FOREIGN[language]
    texts = [foreign, *(f"{e} {foreign}" for e in english), *(f"{foreign} {e}" for e in english)]
    for text, prediction in zip(texts, classifier.predict(texts), strict=True):
        assert decide(prediction, policy).action == "escalate", text


def test_plain_english_still_proceeds(adapter: tuple[Any, Policy, list[str]]) -> None:
    classifier, policy, english = adapter
    policy = replace(policy, calibrated_for=None)
    for prediction in classifier.predict(english):
        assert decide(prediction, policy).action == "proceed"
        assert prediction.foreign < 0.99
