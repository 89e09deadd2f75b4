"""KServe: one request per call of a model, over REST and gRPC, in the process that has the model.

All protocols come together in ``Model.__call__``: pre-processing, prediction or explanation, post-processing.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.context import get_current

from otel_aimon.core.call import observed_async
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.server_requests import callers_context

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "kserve"

_OPERATIONS = {"EXPLAIN": "explain", "PREDICT": "predict"}

_HEADERS, _VERB = 2, 3
"""Positions of the parameters that are read, where they are not passed by name."""


def hook_models(hooks: Hooks, module: Any) -> None:
    """Hook the parent of all models.

    Args:
        hooks: Of KServe.
        module: ``kserve.model``.
    """
    begin = functools.partial(_begin, hooks.recorder)
    make = functools.partial(observed_async, begin=begin)
    hooks.wrap(module.Model, "__call__", make, ("headers", "verb"))


def _begin(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
    model = args[0]
    headers = args[_HEADERS] if len(args) > _HEADERS else kwargs.get("headers")
    verb = args[_VERB] if len(args) > _VERB else kwargs.get("verb")
    current = callers_context(get_current(), headers)
    operation = _OPERATIONS.get(getattr(verb, "name", "PREDICT"), "predict")
    series = recorder.series(FRAMEWORK, operation, model.name)
    return recorder.start(series, Layer.REQUEST, current)
