"""What OpenVINO says of a compiled model, read once per model, and how one of its runs ends."""

from __future__ import annotations

import contextlib
import re
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder

FRAMEWORK = "openvino"

_NUMBERED = re.compile(r"Model\d+")
"""What OpenVINO calls models that nobody has named, by a counter: no name, and another one after a restart."""


class Compiled:
    """A compiled model.

    Args:
        recorder: Takes the requests.
        model: The ``CompiledModel``; not kept.

    Attributes:
        is_dynamic: The number of items is that of each run's input.
    """

    __slots__ = ("_batch", "_device", "_is_decided", "_recorder", "_series", "is_dynamic")

    def __init__(self, recorder: Recorder, model: Any) -> None:
        name = _property(model, "NETWORK_NAME")
        if not isinstance(name, str) or _NUMBERED.fullmatch(name):
            name = None
        self._recorder = recorder
        self._series = recorder.series(FRAMEWORK, "infer", name)
        self._batch, self.is_dynamic = _items(model)
        self._is_decided = False
        self._device: str | None = None

    def start(self, owner: Any, *, since: tuple[int, int] | None = None) -> Inference | None:
        """Start the request of a run.

        Args:
            owner: The ``InferRequest`` that runs it.
            since: When it was submitted, if not now.
        """
        inference = self._recorder.start(self._series, Layer.MODEL, since=since)
        if inference is not None:
            if not self._is_decided:
                self._device, self._is_decided = _device(owner.get_compiled_model())
            inference.device = self._device
            inference.batch_size = self._batch
        return inference

    def read_items(self, inference: Inference, owner: Any) -> None:
        """Read the items of a run that has ended, where each run may have another number of them."""
        if self.is_dynamic:
            shape = owner.get_input_tensor(0).shape
            inference.batch_size = shape[0] if len(shape) else None


class Run:
    """An asynchronous run that has not been seen to end.

    Args:
        inference: Its request.
        compiled: Its model.
        is_watched: Whether anybody is going to note its end.

    Attributes:
        inference: Its request.
        context: In which the user's callback is to be called.
        started_ns: When its start returned, on the monotonic clock; 0 before.
        is_cancelled: Somebody has asked for its end.
    """

    __slots__ = ("_compiled", "_is_watched", "context", "inference", "is_cancelled", "started_ns")

    def __init__(self, inference: Inference, compiled: Compiled, *, is_watched: bool = True) -> None:
        self.inference = inference
        self.context: Context | None = inference.context
        self.started_ns = 0
        self.is_cancelled = False
        self._compiled = compiled
        self._is_watched = is_watched

    def returned(self) -> None:
        """Note that its start has returned: it runs, or is done already."""
        self.started_ns = perf_counter_ns()
        if not self._is_watched:
            self.inference.cancel()

    def ended(self, owner: Any) -> None:
        """Note its end, which may have been long before now: OpenVINO has measured it.

        Args:
            owner: The ``InferRequest`` that ran it, idle again.
        """
        if self.inference.end_ns:
            return
        guarded(self._compiled.read_items, self.inference, owner)
        now = perf_counter_ns()
        measured_ns = int(owner.latency * 1e6)
        self.inference.end(min(now, self.started_ns + measured_ns) if self.started_ns else now)

    def called_back(self, owner: Any) -> None:
        """Note that it has just ended."""
        if not self.inference.end_ns:
            guarded(self._compiled.read_items, self.inference, owner)
            self.inference.end()

    def failed(self, error: BaseException) -> None:
        """Note that waiting for it raised."""
        if self.is_cancelled:
            self.inference.cancel()
        else:
            self.inference.fail(error)

    def look(self, owner: Any) -> bool:
        """Look without waiting whether it has ended, and note its end if so."""
        try:
            is_ready = owner.wait_for(0)
        except Exception as error:
            self.failed(error)
            return True
        if is_ready:
            self.ended(owner)
        return bool(is_ready)


def _property(model: Any, name: str) -> Any:
    # Not every device knows every property.
    with contextlib.suppress(Exception):
        return model.get_property(name)
    return None


def _device(model: Any) -> tuple[str | None, bool]:
    """Where a model runs, ``cpu`` or ``gpu:0``, and whether that is for good.

    With ``AUTO`` a model begins on the CPU while its real device compiles it, and says so in brackets.
    """
    devices = _property(model, "EXECUTION_DEVICES")
    if isinstance(devices, str):
        devices = devices.split()
    if not isinstance(devices, list) or len(devices) != 1:
        return None, True
    name = str(devices[0])
    return name.strip("()").lower().replace(".", ":"), not name.startswith("(")


def _items(model: Any) -> tuple[int | None, bool]:
    """The first dimension of the first input, and whether each run has its own."""
    inputs = model.inputs
    if not inputs:
        return None, False
    shape = inputs[0].get_partial_shape()
    if shape.rank.is_dynamic:
        return None, True
    if not len(shape):
        return None, False
    first = shape[0]
    return (first.get_length(), False) if first.is_static else (None, True)


def definer(cls: type, name: str) -> Any:
    """The class whose body defines a method of ``cls``; ``cls`` itself where none does."""
    return next((each for each in cls.__mro__ if name in vars(each)), cls)


def with_callback(
    args: tuple[Any, ...], kwargs: dict[str, Any], observe: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of ``set_callback`` with another callback; None where it is none.

    Args:
        args: Positional arguments, the object first.
        kwargs: Keyword arguments.
        observe: Makes the other one.
    """
    if len(args) > 1:
        return ((args[0], observe(args[1]), *args[2:]), kwargs) if callable(args[1]) else None
    callback = kwargs.get("callback")
    return (args, {**kwargs, "callback": observe(callback)}) if callable(callback) else None
