"""An adapter's folder and its backbone on disk: found, verified, loaded. Knows no noise, no text.

Nothing that could run code is read: no pickles, no remote code.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
