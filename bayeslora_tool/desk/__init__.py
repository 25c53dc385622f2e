"""The review desk: what waits for people is filed, answered once, carried out, and on record.

Knows graphs and what people may answer; knows no model and no page. What it reaches are its
database, the webhooks that hear of reviews, and the LangGraph servers that one names.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
