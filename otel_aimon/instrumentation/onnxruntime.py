"""ONNX Runtime: each run of a session is one request.

All ways to run a model are methods of one Python class, ``Session``. What never changes between the runs
of a session, its model's name, its device and its first input, is read once per session.
"""

from __future__ import annotations

import functools
import itertools
import re
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.context import attach, detach

from otel_aimon import semconv
from otel_aimon.core.call import observed
from otel_aimon.core.guard import swallow
from otel_aimon.core.layers import Layer
from otel_aimon.core.naming import clean_model_name

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from otel_aimon.core.call import Begin
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series
    from otel_aimon.instrumentation.hooks import Hooks

_FEEDS: dict[str, str | None] = {
    "run": "input_feed",
    "run_with_ort_values": "input_dict_ort_values",
    "run_with_iobinding": None,
    "run_with_ortvaluevector": None,
}
"""Methods that run a model, with the parameter that holds its inputs by name."""

_FEED_POSITION = 2
_CALLBACK_POSITION = 3
_USER_DATA_POSITION = 4
_MISSING = object()

_DEVICES = {
    "CPUExecutionProvider": "cpu",
    "DnnlExecutionProvider": "cpu",
    "XnnpackExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "ROCMExecutionProvider": "rocm",
    "MIGraphXExecutionProvider": "rocm",
    "DmlExecutionProvider": "dml",
    "WebGpuExecutionProvider": "webgpu",
}
"""Devices of the execution providers that have one; others choose it themselves."""

_REMOTE = "AzureExecutionProvider"
"""Only runs operators that call a remote service; the next provider runs the model."""


def hook_sessions(hooks: Hooks, module: Any) -> None:
    """Hook ``Session``, the parent of ``InferenceSession``."""
    sessions = _Sessions(hooks.recorder, module.OrtValue)
    for method, feed in _FEEDS.items():
        begin = sessions.begin(feed)
        hooks.wrap(module.Session, method, functools.partial(observed, begin=begin), (feed,) if feed else ())
    hooks.wrap(module.Session, "run_async", sessions.asynchronous, ("input_feed", "callback", "user_data"))


class _Loaded(NamedTuple):
    """What is known of a session before it runs."""

    alive: weakref.ref[Any]
    providers: Any
    series: Series
    device: str | None
    first_input: str | None


class _Pending(NamedTuple):
    """A run whose callback is still to be called."""

    inference: Inference
    context: Context | None
    callback: Any
    user_data: Any


class _Sessions:
    """Starts the requests of all sessions; keeps none of them alive."""

    def __init__(self, recorder: Recorder, ort_value: type) -> None:
        self._recorder = recorder
        self._ort_value = ort_value
        self._loaded: dict[int, _Loaded] = {}
        self._pending: dict[int | None, _Pending] = {}
        self._tickets = itertools.count()
        self._answered = self._answer

    def begin(self, feed: str | None) -> Begin:
        """Start the request of a synchronous run."""

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
            return self._start(feed, args, kwargs)

        return begin

    def asynchronous(self, original: Any) -> Any:
        """Wrap ``run_async``: the request ends when the callback is called, on a thread of C++.

        Old versions leak a reference to the callback and to the user's data in each call. So the callback
        handed on is always the same, and the data are a number: what the two stand for is freed here.
        """

        @functools.wraps(original)
        def run_async(*args: Any, **kwargs: Any) -> Any:
            ticket = None
            try:
                ticket = self._submit(args, kwargs)
                if ticket is not None:
                    args, kwargs = _replaced(args, kwargs, self._answered, ticket)
            except Exception as error:
                swallow(error, "onnxruntime.run_async")
            try:
                return original(*args, **kwargs)
            except BaseException as error:
                pending = self._pending.pop(ticket, None)
                if pending is not None:
                    pending.inference.fail(error)
                raise

        return run_async

    def _submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        callback = _argument(args, kwargs, _CALLBACK_POSITION, "callback")
        user_data = _argument(args, kwargs, _USER_DATA_POSITION, "user_data")
        if not callable(callback) or user_data is _MISSING:
            return None
        inference = self._start("input_feed", args, kwargs)
        if inference is None:
            return None
        ticket = next(self._tickets)
        self._pending[ticket] = _Pending(inference, inference.context, callback, user_data)
        return ticket

    def _answer(self, results: Any, ticket: int, error: str) -> Any:
        """End the request, then call the user's callback below its span."""
        pending = self._pending.pop(ticket)
        if error:
            # A text without a code, which may quote inputs: what kind of error it is nobody says.
            pending.inference.fail_as(semconv.ERROR_TYPE_OTHER)
        else:
            pending.inference.end()
        token = attach(pending.context)  # type: ignore[arg-type]
        try:
            return pending.callback(results, pending.user_data, error)
        finally:
            detach(token)

    def _start(self, feed: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        if not args:
            return None
        session = args[0]
        loaded = self._loaded.get(id(session))
        if (
            loaded is None
            or loaded.alive() is not session
            or loaded.providers is not vars(session).get("_providers")
        ):
            loaded = self._read(session)
        inference = self._recorder.start(loaded.series, Layer.MODEL)
        if inference is None:
            return None
        inference.device = loaded.device
        if feed is not None:
            inputs = args[_FEED_POSITION] if len(args) > _FEED_POSITION else kwargs.get(feed)
            if type(inputs) is dict:
                inference.batch_size = self._rows(inputs.get(loaded.first_input))
        return inference

    def _read(self, session: Any) -> _Loaded:
        key = id(session)
        state = vars(session)
        providers = state.get("_providers")
        # A session that is collected takes its row with it; a new one may have its address by then.
        alive = weakref.ref(session, lambda gone: self._forget(key, gone))
        loaded = self._loaded[key] = _Loaded(
            alive,
            providers,
            self._recorder.series("onnxruntime", "run", _model_name(state)),
            _device(providers, state.get("_provider_options")),
            _first_input(state),
        )
        return loaded

    def _forget(self, key: int, gone: weakref.ref[Any]) -> None:
        loaded = self._loaded.get(key)
        if loaded is not None and loaded.alive is gone:
            self._loaded.pop(key, None)

    def _rows(self, value: Any) -> int | None:
        """The first dimension of an input, where its type is known to tell it at no cost."""
        cls = type(value)
        if cls is self._ort_value:
            shape = value.shape() if value.is_tensor() else None
        elif cls.__module__ == "numpy":
            shape = getattr(value, "shape", None)
        else:
            return None
        return shape[0] if shape else None


def _model_name(state: dict[str, Any]) -> str | None:
    path = state.get("_model_path")
    if isinstance(path, str) and path:
        if "models--" in path:
            return clean_model_name(path)
        name = re.split(r"[/\\]", path)[-1]
        return name.rpartition(".")[0] or name
    graph = getattr(state.get("_model_meta"), "graph_name", None)
    return graph if isinstance(graph, str) and graph else None


def _device(providers: Any, options: Any) -> str | None:
    names = providers if type(providers) is list else []
    provider = next((name for name in names if name != _REMOTE), None)
    device = _DEVICES.get(provider) if provider is not None else None
    if device is None or device == "cpu":
        return device
    number = options.get(provider, {}).get("device_id") if type(options) is dict else None
    return f"{device}:{number}" if isinstance(number, str) and number.isdigit() else device


def _first_input(state: dict[str, Any]) -> str | None:
    inputs = state.get("_inputs_meta")
    return inputs[0].name if type(inputs) is list and inputs else None


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, _MISSING)


def _replaced(
    args: tuple[Any, ...], kwargs: dict[str, Any], callback: Any, user_data: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of ``run_async`` with another callback and other data."""
    replaced = list(args)
    named = dict(kwargs)
    for position, name, value in (
        (_CALLBACK_POSITION, "callback", callback),
        (_USER_DATA_POSITION, "user_data", user_data),
    ):
        if len(replaced) > position:
            replaced[position] = value
        else:
            named[name] = value
    return tuple(replaced), named
