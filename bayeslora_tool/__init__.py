"""Calibrated, task-specific doubt for LangGraph agents.

Importing this package is instant: torch and its kin load with the first name that needs them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
