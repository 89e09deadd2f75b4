"""Keras: ``predict``, ``predict_on_batch`` and a call of a model, outside of everything else, are requests.

A call of a model is one where it is executed at once, not traced, and does not train. Models inside models,
and models inside layers, are parts of the call that is under way. How a call that is executed is told from one
that is traced, and one that serves from one that trains, depends on the backend.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from otel_aimon.core.call import observed, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.tensors import first_tensor, items

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.call import Begin
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

    Serves = Callable[[], bool]
    """Whether a call is executed at once, not traced, and takes no gradient."""

FRAMEWORK = "keras"

_REQUESTS = ("predict", "predict_on_batch")
_SILENT = ("fit", "evaluate", "train_on_batch", "test_on_batch")
_MODEL_SILENT = ("export", "quantize")

_first_variables: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()
"""The first variable of a model: to ask a large model for its variables takes long."""


def hook_models(hooks: Hooks, module: Any) -> None:
    """Hook models.

    Args:
        hooks: Of Keras.
        module: ``keras.src.models.model``.
    """
    model = module.Model
    backend: str = module.backend.backend()
    trainer = next((cls for cls in model.__mro__ if "predict" in vars(cls)), model)
    device = _DEVICES.get(backend, _no_device)
    finish = functools.partial(_tell_device, device)
    for name in _REQUESTS:
        begin = _begin_predict(hooks.recorder, name)
        hooks.wrap(trainer, name, functools.partial(observed, begin=begin, finish=finish), ("x",))
    for owner, names in ((trainer, _SILENT), (model, _MODEL_SILENT)):
        for name in names:
            hooks.wrap(owner, name, functools.partial(quiet, recorder=hooks.recorder))
    serves = _SERVES.get(backend)
    if serves is None:
        hooks.leave_out("keras.Model.__call__", f"it is not known how the backend {backend} runs it")
    else:
        begin = _begin_call(hooks.recorder, serves())
        make = functools.partial(observed, begin=begin, finish=finish)
        hooks.override(model, "__call__", make)
    hooks.on_restore(_first_variables.clear)


def _begin_predict(recorder: Recorder, operation: str) -> Begin:
    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        return _start(recorder, operation, args, kwargs, "x") if args else None

    return begin


def _begin_call(recorder: Recorder, serves: Serves) -> Begin:
    from keras.src.backend.common.global_state import get_global_attribute
    from keras.src.backend.common.keras_tensor import any_symbolic_tensors

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        if (
            not serves()
            or not args
            or get_global_attribute("current_call_ctx") is not None
            or get_global_attribute("symbolic_scope") is not None
            or _is_training(kwargs.get("training"))
            or any_symbolic_tensors(args[1:], kwargs)
        ):
            return None
        return _start(recorder, "call", args, kwargs, "inputs")

    return begin


def _is_training(value: Any) -> bool:
    """Whether the argument asks for training, or may do so."""
    return not (value is None or value is False or (type(value) is int and value == 0))


def _start(
    recorder: Recorder, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any], parameter: str
) -> Inference | None:
    # A model whose class forgot to call `super().__init__` has no name, and Keras is about to say so.
    name = getattr(args[0], "name", None)
    inference = recorder.start(recorder.series(FRAMEWORK, operation, name), Layer.MODEL)
    if inference is not None:
        inference.batch_size = guarded(_items, args[1] if len(args) > 1 else kwargs.get(parameter))
    return inference


def _items(data: Any) -> int | None:
    return items(first_tensor(data))


# --- what depends on the backend ---------------------------------------------------------------


def _serves_tensorflow() -> Serves:
    from otel_aimon.instrumentation.tensorflow import serves_eagerly

    return serves_eagerly()


def _serves_torch() -> Serves:
    from otel_aimon.instrumentation.torch_roots import is_plain_inference

    return is_plain_inference


def _serves_jax() -> Serves:
    from otel_aimon.instrumentation.jax import is_executed

    return is_executed()


_SERVES: dict[str, Callable[[], Serves]] = {
    "tensorflow": _serves_tensorflow,
    "torch": _serves_torch,
    "jax": _serves_jax,
    "numpy": lambda: lambda: True,
}


def _tell_device(
    device: Callable[[Any], str | None],
    inference: Inference,
    args: tuple[Any, ...],
    _kwargs: Any,
    _result: Any,
) -> None:
    variable = _first_variable(args[0])
    # The value itself: asked for by its public name, it may be cast.
    value = None if variable is None else getattr(variable, "_value", None)
    if value is not None:
        inference.device = device(value)


def _first_variable(model: Any) -> Any:
    known = _first_variables.get(model)
    variable = None if known is None else known()
    if variable is None:
        variable = next(iter(model.variables), None)
        if variable is not None:
            _first_variables[model] = weakref.ref(variable)
    return variable


def _device_of_tensorflow(variable: Any) -> str | None:
    from otel_aimon.instrumentation.tensors import tensorflow_device

    # A variable of several replicas has a device of its own too, and is in several places.
    return None if hasattr(variable, "values") else tensorflow_device(variable.device)


def _device_of_jax(array: Any) -> str | None:
    from otel_aimon.instrumentation.jax import device_of

    return device_of(array)


def _no_device(_value: Any) -> None:
    """Where it is not known."""


_DEVICES: dict[str, Callable[[Any], str | None]] = {
    "tensorflow": _device_of_tensorflow,
    "torch": lambda parameter: str(parameter.device),
    "jax": _device_of_jax,
    "numpy": lambda _array: "cpu",
}
