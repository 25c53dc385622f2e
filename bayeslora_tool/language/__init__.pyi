from .choices import ChoiceHead as ChoiceHead
from .prompts import Choices as Choices
from .prompts import ChoiceTree as ChoiceTree
from .prompts import Prompts as Prompts
