"""Classify texts and learn, for each, whether to act on the answer.

python examples/01_predict.py
"""

from bayeslora_tool import BayesLoRAClassifier, decide, load_preset

TEXTS = [
    "where is my order, has it shipped yet",
    "please cancel my dinner reservation",
    "florgle wumpus zabble",
]


def main() -> None:
    # A preset names an adapter, how to score, and the thresholds that were calibrated for both.
    preset = load_preset("intents")
    classifier = BayesLoRAClassifier.from_preset(preset)
    for text, prediction in zip(TEXTS, classifier.predict(TEXTS), strict=True):
        decision = decide(prediction, preset.policy)
        print(f"{text!r}\n  {decision.action}: {prediction.label}")
        print(f"  confidence {prediction.confidence:.3f}, variance {prediction.variance:.2g}")
        print(f"  {decision.reason}")


if __name__ == "__main__":
    main()
