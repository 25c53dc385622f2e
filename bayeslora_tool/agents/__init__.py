"""LangChain's surfaces: a tool for models, gates for ``create_agent``. Import no torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
