"""What doubt costs: contestants take turns in one run. Knows no label and no promise."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
