"""The review desk's page and its REST interface: what reviewers see, and who they are.

Knows the ledger; knows no model and no graph. What a text says is shown, never run.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
