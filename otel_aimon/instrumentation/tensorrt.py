"""TensorRT: each synchronous execution of an engine is one request.

``execute_async_v3`` only puts the work into a CUDA stream. Nothing in TensorRT says when the work is done, so that its
calls are left alone: how long one takes is no latency.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_aimon import semconv
from otel_aimon.core.call import observed
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "tensorrt"


def hook_contexts(hooks: Hooks, module: Any) -> None:
    """Hook execution contexts.

    Args:
        hooks: Of TensorRT.
        module: The package that has the bindings: ``tensorrt_bindings``, or ``tensorrt`` where that holds them itself.
    """
    context = module.IExecutionContext
    if context.__module__.split(".")[0] != module.__name__:
        # The package only hands on those of another one, which are hooked there.
        return
    contexts = _Contexts(hooks.recorder)
    begin = contexts.begin
    hooks.wrap(context, "execute_v2", functools.partial(observed, begin=begin, finish=contexts.finish))


class _Setup(NamedTuple):
    """What is known of a context.

    Attributes:
        series: Of its engine.
        input: Name of the engine's first input.
    """

    series: Series
    input: str | None


class _Contexts:
    """Starts the requests of all contexts; keeps none of them alive."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._setups: Known[_Setup] = Known()

    def begin(self, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
        """Start the request of a call."""
        if not args:
            return None
        context = args[0]
        setup = self._setups.of(context)
        if setup is None:
            setup = self._setups.learn(context, self._look(context.engine))
        inference = self._recorder.start(setup.series, Layer.MODEL)
        if inference is not None:
            inference.device = "cuda"
            if setup.input is not None:
                shape = context.get_tensor_shape(setup.input)
                rows = shape[0] if len(shape) else 0
                # A size that was not set yet is -1.
                inference.batch_size = rows if rows > 0 else None
        return inference

    def _look(self, engine: Any) -> _Setup:
        names = (engine.get_tensor_name(place) for place in range(engine.num_io_tensors))
        first = next((name for name in names if engine.get_tensor_mode(name).name == "INPUT"), None)
        return _Setup(self._recorder.series(FRAMEWORK, "execute", engine.name or None), first)

    @staticmethod
    def finish(inference: Inference, _args: Any, _kwargs: Any, succeeded: Any) -> None:
        """Say that a call has failed: TensorRT logs why, and returns no more than that."""
        if succeeded is False:
            inference.fail_as(semconv.ERROR_TYPE_OTHER)
