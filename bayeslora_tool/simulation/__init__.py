"""Scenarios through the real graph, with simulated people, priced. Knows no command line."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
