from .acts import Act as Act
from .answer_gate import AnswerGate as AnswerGate
from .decision_classifier import DecisionClassifier as DecisionClassifier
from .decision_model import BayesLoRADecisions as BayesLoRADecisions
from .dialogue import user_request as user_request
from .middleware import UncertaintyGate as UncertaintyGate
from .subagents import on_behalf_of as on_behalf_of
from .tool import BayesLoRATool as BayesLoRATool
