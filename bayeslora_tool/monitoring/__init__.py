"""Is the promise still true? Tests that may be looked at after each label. Knows no model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
