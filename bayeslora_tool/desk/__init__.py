"""The review desk: what waits for people is filed, answered once, carried out, and on record.

Knows graphs and what people may answer; knows no model, no page and no network but its database.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
