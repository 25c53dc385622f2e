"""LangChain's chat model over a language model of one's own, with its doubt about each call.

``chat_model`` is what an agent runs on; ``template_messages`` and ``tool_format`` or
``response_template`` are what goes in and comes out, ``call_doubt`` what is said of it.
Knows no gate: ``agents/own_doubt`` reads what it writes. Imports no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
