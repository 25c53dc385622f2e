"""Other programs at the door: MCP clients, LangGraph's server. The model loads when first asked."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
