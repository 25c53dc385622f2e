from .choices import ChoiceHead as ChoiceHead
from .model import OTHER as OTHER
from .model import LanguageModel as LanguageModel
from .prompts import Choices as Choices
from .prompts import ChoiceTree as ChoiceTree
from .prompts import Prompts as Prompts
from .tokens import TokenDoubt as TokenDoubt
