"""Speak LangChain's decision interface: route models by a classifier, or gate by a decision model.

    python examples/13_decision_models.py

Needs [agents]. Ours answers LangChain's model router; somebody else's meets our policy.
"""

from langchain.agents import create_agent
from langchain.agents.middleware import ModelChoice, ModelRouterMiddleware
from langchain_core._api import suppress_langchain_beta_warning
from langchain_core.decisions import BaseDecisionModel, Choice, ChoiceAnswer, ClassifierResponse
from langchain_core.messages import AIMessage
from scripted_chat import ScriptedChat

from bayeslora_tool import BayesLoRAClassifier, Policy, decide
from bayeslora_tool.agents import BayesLoRADecisions, DecisionClassifier


class Shouting(BaseDecisionModel):
    """Somebody else's: the louder, the angrier."""

    model: str = "shouting"

    @property
    def _provider(self) -> str:
        return "example"

    def _classify(self, state, questions):  # type: ignore[no-untyped-def]
        loud = sum(c.isupper() for c in state) / len(state)
        shares = {"angry": loud, "calm": 1 - loud}
        likely = max(shares, key=shares.get)
        answer = ChoiceAnswer(type="choice", choice=likely, probabilities=shares, confidence=1)
        return ClassifierResponse(model=self.model, answers=dict.fromkeys(questions, answer))


def main() -> None:
    acts = {"small": ["weather", "translate", "time"]}  # `other` takes all other labels
    intents = BayesLoRAClassifier.from_pretrained("intents")
    small, other = (ScriptedChat(reply=lambda _, n=n: AIMessage(n)) for n in ("small", "other"))
    with suppress_langchain_beta_warning():
        router = ModelRouterMiddleware(
            choices={"small": ModelChoice(small, None), "other": ModelChoice(other, None)},
            instructions="Which model?",
            classifier=BayesLoRADecisions(classifier=intents, acts=acts),
        )
    agent = create_agent(other, [], middleware=[router])
    for text in ("how do you say good morning in italian", "they took my wallet on the train"):
        said = agent.invoke({"messages": [("user", text)]})["messages"][-1].text
        print(f"{text!r}\n  goes to the {said} model")
    mood = Choice(instructions="What mood is it?", criteria={"angry": None, "calm": None})
    clf = DecisionClassifier(Shouting(), mood)  # bayeslora calibrate --decisions my_module:clf
    for lenient in (False, True):
        policy = Policy(tau_conf=0.9, tau_var=0.25, allow_no_variance=lenient)
        decision = decide(clf.predict(["please help me"])[0], policy)
        print(f"{decision.action}: {decision.reason}")


if __name__ == "__main__":
    main()
