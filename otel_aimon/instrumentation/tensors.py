"""What the tensors of any framework tell at no cost: how many items they hold, and where they are."""

from __future__ import annotations

import re
from typing import Any

from otel_aimon.instrumentation.tabular import package

_PACKAGES = frozenset({"numpy", "pandas", "tensorflow", "torch", "jax", "jaxlib", "cupy"})
"""Packages whose arrays tell their shape at no cost."""

_TENSORFLOW_DEVICE = re.compile(r"device:([A-Za-z_]+):(\d+)$")


def is_tensor(data: Any) -> bool:
    """Whether it is an array or tensor of a framework that we know."""
    return package(type(data)) in _PACKAGES and hasattr(data, "shape")


def items(data: Any) -> int | None:
    """The first dimension of a tensor; None for a single number, an unknown one, and what is no tensor."""
    if not is_tensor(data):
        return None
    shape = data.shape
    first = shape[0] if len(shape) else None
    return first if type(first) is int else None


def first_tensor(data: Any) -> Any:
    """The first tensor of a list, tuple or dictionary of tensors; ``data`` itself where it is none of these."""
    cls = type(data)
    if cls is dict:
        data = tuple(data.values())
        cls = tuple
    if cls is list or cls is tuple:
        return next((each for each in data if is_tensor(each)), None)
    return data


def tensorflow_device(name: Any) -> str | None:
    """``cpu``, ``gpu:0`` for TensorFlow's name of a device."""
    found = _TENSORFLOW_DEVICE.search(name) if type(name) is str else None
    return device_name(found[1].lower(), int(found[2])) if found else None


def device_name(platform: str, number: int) -> str:
    """``cpu``, ``gpu:0``: there is only one CPU."""
    return platform if platform == "cpu" else f"{platform}:{number}"
