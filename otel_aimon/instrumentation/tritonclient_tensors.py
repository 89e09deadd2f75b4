"""How many rows a request to a Triton server has, from the shapes of its tensors alone.

A client is not told whether a model takes batches. Where it does, the server requires that the first dimension of all
tensors, in and out, is the batch, with another one after it. Anything else is taken for no batch.
"""

from __future__ import annotations

from typing import Any


def asked_rows(inputs: Any) -> int | None:
    """The first dimension that all inputs share; None where they do not.

    Args:
        inputs: A list of ``InferInput``, of which nothing but the shapes is read.
    """
    if type(inputs) is not list:
        return None
    rows: int | None = None
    for each in inputs:
        shape: Any = each.shape()
        # Those of gRPC are containers of protobuf; users may have given any object to those of HTTP.
        if not isinstance(shape, (list, tuple)) and not type(shape).__module__.startswith("google."):
            return None
        if len(shape) < 2 or type(shape[0]) is not int or rows not in {None, shape[0]}:
            return None
        rows = shape[0]
    return rows


def answered_rows(rows: int | None, response: Any) -> int | None:
    """``rows``, where all outputs have them too.

    Args:
        rows: Those of the inputs.
        response: What the server said, a dictionary or a message of protobuf; its data are not read.
    """
    if rows is None:
        return None
    if type(response) is dict:
        shapes: list[Any] = [each.get("shape") or () for each in response.get("outputs") or ()]
    else:
        shapes = [each.shape for each in response.outputs]
    if shapes and all(len(shape) > 1 and shape[0] == rows for shape in shapes):
        return rows
    return None
