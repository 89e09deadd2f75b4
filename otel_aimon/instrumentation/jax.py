"""JAX: compilations, by themselves; and calls of functions that the application asks to have recorded.

A function that ``jax.jit`` returns is called by the interpreter without any Python of JAX's, and returns before its
work is done. So no call is recorded unasked: :func:`otel_aimon.monitor_jax` wraps a function, and waits for its result.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach

from otel_aimon.core.guard import guarded, swallow
from otel_aimon.instrumentation.tensors import device_name, items

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "jax"

_COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event for the compiler's own time. Its other events nest, and their sum would count time twice."""

_ATTRIBUTES = ("lower", "trace", "eval_shape", "clear_cache")
"""What the functions of ``jax.jit`` have beyond being called."""


def hook_compilations(hooks: Hooks, module: Any) -> None:
    """Listen to what JAX tells of its compiler.

    Args:
        hooks: Of JAX.
        module: ``jax``.
    """
    monitoring = module.monitoring
    recorder = hooks.recorder

    def listen(event: str, seconds: float, **_about: Any) -> None:
        if event == _COMPILED:
            guarded(recorder.compiled, FRAMEWORK, seconds)

    monitoring.register_event_duration_secs_listener(listen)
    hooks.on_restore(functools.partial(_stop_listening, listen))


def _stop_listening(listener: Any) -> None:
    from jax._src import monitoring

    if listener in monitoring.get_event_duration_listeners():
        for name in ("unregister_event_duration_listener", "_unregister_event_duration_listener_by_callback"):
            unregister = getattr(monitoring, name, None)
            if unregister is not None:
                unregister(listener)
                return


@functools.cache
def is_executed() -> Callable[[], bool]:
    """Returns what tells whether a call is executed now: not traced, differentiated or vectorised."""
    from jax._src.core import trace_state_clean

    return trace_state_clean  # type: ignore[no-any-return]


def device_of(array: Any) -> str | None:
    """``cpu``, ``gpu:0``; None for an array on several devices."""
    devices = array.devices()
    if len(devices) != 1:
        return None
    [device] = devices
    return device_name(str(device.platform), int(device.id))


def observed_until_ready(
    function: Any, start: Callable[[], Inference | None], batch_argnum: int | None
) -> Any:
    """Wrap a function of JAX so that each call is an inference, which ends when the result is there.

    Args:
        function: What ``jax.jit`` or a kin returned, or any function that returns arrays.
        start: Starts the inference.
        batch_argnum: Position of the argument whose first dimension is the batch.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        inference = guarded(_begin, start)
        if inference is None:
            return function(*args, **kwargs)
        if batch_argnum is not None and -len(args) <= batch_argnum < len(args):
            inference.batch_size = guarded(items, args[batch_argnum])
        token = attach(inference.context)  # type: ignore[arg-type]
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            detach(token)
            inference.fail(error)
            raise
        try:
            _wait_for(inference, result)
        finally:
            detach(token)
        return result

    for name in _ATTRIBUTES:
        if hasattr(function, name):
            setattr(call, name, getattr(function, name))
    return call


def _begin(start: Callable[[], Inference | None]) -> Inference | None:
    # A function that runs without JAX is somebody's mistake, and no reason to import it.
    return start() if "jax" in sys.modules and is_executed()() else None


def _wait_for(inference: Inference, result: Any) -> None:
    """End the inference when the result is there."""
    import jax

    try:
        jax.block_until_ready(result)
    except Exception as error:
        # The computation failed. Whoever reads the result is told, as without us.
        inference.fail(error)
        return
    except BaseException as error:
        inference.fail(error)
        raise
    try:
        inference.device = _device_of_result(jax, result)
    except Exception as error:
        swallow(error, "the device of a result")
    inference.end()


def _device_of_result(jax: Any, result: Any) -> str | None:
    arrays = (leaf for leaf in jax.tree_util.tree_leaves(result) if isinstance(leaf, jax.Array))
    first = next(arrays, None)
    return None if first is None else device_of(first)
