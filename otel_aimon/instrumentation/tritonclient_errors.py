"""What became of a request to a Triton server, in its own words: a status of gRPC or of HTTP.

The clients raise one class of exception for everything, with the status inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference

IN_STREAM = "tritonclient.utils.InferenceServerException"
"""Of an error inside of a stream, which has no status."""

_RAISED_IN = IN_STREAM.rpartition(".")[0]


def failed(inference: Inference, error: BaseException) -> None:
    """End a request with the status of an exception, or with its class where it has none."""
    status = _status(error)
    if status is None:
        inference.fail(error)
    else:
        failed_as(inference, status)


def failed_as(inference: Inference, status: str) -> None:
    """End a request with a status."""
    if status == "CANCELLED":
        inference.cancel()
    else:
        inference.fail_as(status)


def _status(error: Any) -> str | None:
    module = type(error).__module__
    if module == _RAISED_IN:
        # Of gRPC it reads StatusCode.UNAVAILABLE.
        status = error.status()
        return status.rpartition(".")[2] if isinstance(status, str) and status else None
    if module.startswith("grpc.") and callable(code := getattr(error, "code", None)):
        name = getattr(code(), "name", None)
        return name if isinstance(name, str) else None
    return None
