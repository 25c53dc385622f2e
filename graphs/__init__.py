"""State machines around anything with ``predict(texts)``. Know no model and import no torch.

``gate`` is what all are made of; ``runs`` starts, answers and carries on their runs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
