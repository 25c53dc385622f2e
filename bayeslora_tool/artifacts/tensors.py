"""Safetensors files, checked: what they hold before it is read, and that all of it is finite."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from bayeslora_tool.documents import shown

_FLOATS = ("F64", "F32", "F16", "BF16")
_INTEGERS = ("I8", "I16", "I32", "I64")


def read_shapes(path: Path, *, integers: bool = False) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, from the file's header alone.

    Args:
        path: Of the file.
        integers: Whether tensors may hold whole numbers.

    Raises:
        ValueError: The file is damaged, or a tensor is of another type than floating point.
    """
    allowed = (*_FLOATS, *_INTEGERS) if integers else _FLOATS
    try:
        with safe_open(path, framework="pt") as file:
            parts = {key: file.get_slice(key) for key in sorted(file.keys())}
            kinds = {key: str(part.get_dtype()) for key, part in parts.items()}
            shapes = {key: tuple(part.get_shape()) for key, part in parts.items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({shown(error)}); restore or train it again") from None
    for key, kind in kinds.items():
        if kind not in allowed:
            raise ValueError(
                f"{path}: tensor {key!r:.100} is of type {kind}, expected one of "
                f"{', '.join(allowed)}; restore or train it again"
            )
    return shapes


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file whose shapes are known to fit.

    Raises:
        ValueError: One of them holds NaN or infinity.
    """
    tensors: dict[str, Tensor] = load_file(path)
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"{path}: tensor {key!r:.100} holds NaN or infinity, so nothing it predicts can be "
                f"trusted; train the adapter again (a lower learning rate may help)"
            )
    return tensors
