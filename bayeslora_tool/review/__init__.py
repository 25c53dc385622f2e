"""How a gate speaks with people: what they are asked, what they may answer, what that means.

Requests have LangChain's ``HITLRequest`` shape. Knows no graph, no agent and no model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
