"""What an option names in a module of the user's."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def imported(option: str, spec: str) -> Any:
    """Import ``MODULE:NAME``, from here or from where Python looks.

    Args:
        option: For messages, as ``--tools``.
        spec: What was given; the module's code runs.

    Raises:
        ValueError: No such module or name.
    """
    module, _, attribute = spec.partition(":")
    if not module or not attribute:
        raise ValueError(f"{option} (={spec!r}) must be MODULE:NAME, for example my_agent:tools")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{option} (={spec!r}): {error}") from None
    finally:
        sys.path.pop(0)
