"""Text to moments: tokens, masks, passes, estimators, novelty. Knows no label, no file, no person.

The way of a batch: ``encoding`` -> ``network`` (a ``fused`` model, the noise of a ``posterior``) ->
``estimators`` or ``sequential`` -> ``scorer``, which joins them; ``novelty`` beside.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
