"""TensorFlow: a call of a loaded SavedModel, by signature or by function, is one request.

A ``tf.function`` may be anything: a training step, a preprocessing, a part of a model. What is loaded from
a SavedModel was exported to serve. So the functions at the root of a loaded SavedModel are remembered, and
calls of these alone are recorded, where they are executed at once and no gradient is taken.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_aimon.core.call import observed, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.tensors import first_tensor, items, tensorflow_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_aimon.core.call import Begin
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "tensorflow"


class _Served(NamedTuple):
    """What a function of a loaded SavedModel is called in the telemetry."""

    operation: str
    model: str
    device: str | None


_Functions = weakref.WeakKeyDictionary[Any, _Served]


def hook_saved_models(hooks: Hooks, module: Any) -> None:
    """Hook what loads SavedModels, and the functions that come out.

    Args:
        hooks: Of TensorFlow.
        module: ``tensorflow.python.saved_model.load``.
    """
    from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction
    from tensorflow.python.saved_model.function_deserialization import RestoredFunction

    functions: _Functions = weakref.WeakKeyDictionary()

    def loading(original: Any) -> Any:
        # Loading runs functions of the model: those that fill its tables.
        load = quiet(original, hooks.recorder)

        @functools.wraps(original)
        def load_partial(export_dir: Any, *args: Any, **kwargs: Any) -> Any:
            loaded = load(export_dir, *args, **kwargs)
            guarded(_remember, functions, loaded, export_dir, (RestoredFunction, ConcreteFunction))
            return loaded

        return load_partial

    hooks.wrap(module, "load_partial", loading, ("export_dir",))
    begin = _begin(hooks.recorder, functions, serves_eagerly())
    hooks.override(RestoredFunction, "__call__", functools.partial(observed, begin=begin))
    hooks.wrap(ConcreteFunction, "__call__", functools.partial(observed, begin=begin))
    hooks.on_restore(functions.clear)


def serves_eagerly() -> Callable[[], bool]:
    """Returns what tells whether a call is executed at once, not traced, and no gradient is taken of it."""
    from tensorflow.python.eager.context import executing_eagerly
    from tensorflow.python.eager.record import could_possibly_record

    return lambda: executing_eagerly() and not could_possibly_record()


def _remember(functions: _Functions, loaded: dict[str, Any], path: Any, types: tuple[type, ...]) -> None:
    model = _model_name(path)
    for root in loaded.values():
        for name, function in _functions_of(root, types):
            operation = "call" if name == "__call__" else name
            functions[function] = _Served(operation, model, guarded(_device, function))


def _functions_of(root: Any, types: tuple[type, ...]) -> Iterator[tuple[str, Any]]:
    """The signatures of a SavedModel, and the functions at its root. What begins with ``_`` is its own affair."""
    for name, value in vars(root).items():
        if isinstance(value, types) and (name == "__call__" or not name.startswith("_")):
            yield name, value
    for name, value in dict(getattr(root, "signatures", None) or {}).items():
        if isinstance(value, types):
            yield name, value


def _model_name(path: Any) -> str:
    """The folder's name; servers keep the versions of a model in folders that are called by number."""
    import os

    *parents, name = os.fsdecode(path).replace("\\", "/").rstrip("/").split("/")
    return next((each for each in reversed([*parents, name]) if not each.isdigit()), name)


def _device(function: Any) -> str | None:
    """Where everything that the function has captured is: its weights; None where that is several places."""
    concrete = getattr(function, "concrete_functions", None) or [function]
    found = {tensor.device for each in concrete for tensor in each.captured_inputs}
    return tensorflow_device(found.pop()) if len(found) == 1 else None


def _begin(recorder: Recorder, functions: _Functions, serves: Callable[[], bool]) -> Begin:
    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        served = functions.get(args[0]) if args else None
        if served is None or not serves():
            return None
        series = recorder.series_named_by_others(FRAMEWORK, served.operation, served.model)
        inference = recorder.start(series, Layer.MODEL)
        if inference is not None:
            inference.device = served.device
            inference.batch_size = guarded(_items, args[1:], kwargs)
        return inference

    return begin


def _items(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    return items(first_tensor(first_tensor(args) if args else kwargs))
