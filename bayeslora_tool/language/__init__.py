"""Causal language models: what they are asked, and how sure they are of what they write.

``prompts`` makes rows of tokens, ``choices`` reads the probabilities of several answers off one
pass, ``model`` writes on, by a ``continuation``, and tells the doubt of ``tokens``.
Knows no gate, no graph and no LangChain.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
