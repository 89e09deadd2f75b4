"""OpenVINO models of a few operations, made on the spot."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino

try:
    from openvino import opset13 as operations
except ImportError:  # before 2024.5
    from openvino.runtime import opset13 as operations

FEATURES = 4


def linear(name: str = "linear", rows: int = -1) -> Any:
    """``y = x @ W`` for a number of rows, or for any."""
    x = operations.parameter([rows, FEATURES], np.float32, name="x")
    weights = operations.constant(np.ones((FEATURES, 3), np.float32))
    return openvino.Model([operations.matmul(x, weights, False, False)], [x], name)


def addition(name: str = "addition") -> Any:
    """``a + b`` of any shape: shapes that do not fit are found out when the model runs."""
    a = operations.parameter([-1, -1], np.float32, name="a")
    b = operations.parameter([-1, -1], np.float32, name="b")
    return openvino.Model([operations.add(a, b)], [a, b], name)


def doubling_of_a_number() -> Any:
    """``2 * x`` of one number, which is no batch."""
    x = operations.parameter([], np.float32, name="x")
    return openvino.Model([operations.add(x, x)], [x], "number")
