"""What predictions are worth: metrics, other methods beside them, reports. Changes no adapter."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
