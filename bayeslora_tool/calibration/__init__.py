"""Scores of labelled texts to thresholds with a promise. Knows no agent and no page.

``thresholds`` and ``guarantee`` are pure; ``adapter`` scores the texts, ``preset_file`` writes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
