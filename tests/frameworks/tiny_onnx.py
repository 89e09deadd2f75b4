"""ONNX models of a few nodes, made on the spot."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

FEATURES = 4
# Read by the oldest onnxruntime under test, however new the onnx that writes.
_IR_VERSION = 8
_OPSET = 17


def linear(graph: str = "tiny_linear", outputs: int = 3) -> bytes:
    """``scores = x @ W`` and ``label = argmax(scores)`` for any number of rows."""
    weights = np.random.RandomState(0).randn(FEATURES, outputs).astype(np.float32)
    return _serialized(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "W"], ["scores"]),
                helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
            ],
            graph,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
            [
                helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", outputs]),
                helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            ],
            [helper.make_tensor("W", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
        )
    )


def addition() -> bytes:
    """``y = scale * (a + b)``: a scalar first, then two rows of numbers."""
    return _serialized(
        helper.make_graph(
            [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["sum", "scale"], ["y"])],
            "tiny_addition",
            [
                helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
                helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n"]),
                helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n"]),
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        )
    )


def session(model: Any = None, cls: Any = onnxruntime.InferenceSession, threads: int = 2) -> Any:
    """A session of ``model``, a path or bytes, on the CPU.

    Args:
        model: :func:`linear` by default.
        cls: The class of the session.
        threads: ``run_async`` needs two.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return cls(linear() if model is None else model, options, providers=["CPUExecutionProvider"])


def rows(count: int) -> Any:
    """Input of ``count`` rows for :func:`linear`."""
    return np.ones((count, FEATURES), np.float32)


def _serialized(graph: Any) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
