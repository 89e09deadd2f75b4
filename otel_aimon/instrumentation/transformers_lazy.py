"""Lazy results of pipelines: one request per iteration.

A pipeline that is given a dataset or a generator returns a ``PipelineIterator`` and has done nothing
yet. That object stays as it is: what we know of it is kept beside it, and its class is hooked.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach

from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import abandon_with, started

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series
    from otel_aimon.instrumentation.hooks import Hooks


def hook_lazy_results(hooks: Hooks, module: Any) -> None:
    """Hook the class of the lazy results.

    Args:
        hooks: Of Transformers.
        module: ``transformers.pipelines.pt_utils``.
    """
    hooks.wrap(module.PipelineIterator, "__iter__", _observe_iter)
    hooks.wrap(module.PipelineIterator, "__next__", _observe_next)


def follow(recorder: Recorder, series: Series, device: str | None, iterator: Any) -> None:
    """Make a request of each iteration, unless it belongs to a request already.

    Args:
        recorder: Takes the requests.
        series: Of the pipeline.
        device: Where the pipeline runs.
        iterator: A ``PipelineIterator`` that the pipeline has made.
    """
    _iterations[iterator] = _Iteration(recorder, series, device)


class _Iteration:
    """The request that an iteration over a lazy result is, from its first step to its end.

    Attributes:
        inference: The running request; None before the first step, after the end, and inside
            another request.
        waits: The next step is the first one.
        ended: Whatever else is taken from the iterator belongs to no request.
    """

    __slots__ = ("device", "ended", "inference", "recorder", "series", "waits")

    def __init__(self, recorder: Recorder, series: Series, device: str | None) -> None:
        self.recorder = recorder
        self.series = series
        self.device = device
        self.inference: Inference | None = None
        self.waits = False
        self.ended = False

    def rewind(self) -> None:
        """Begin anew, as the iterator does: what ran until now is cancelled."""
        if self.inference is not None:
            self.end().cancel()
        self.waits = True
        self.ended = False

    def begin(self, iterator: Any) -> None:
        """Start the request at the first step."""
        self.waits = False
        self.inference = started(self._start)
        if self.inference is not None:
            abandon_with(iterator, self.inference)

    def _start(self) -> Inference | None:
        inference = self.recorder.start(self.series, Layer.PIPELINE)
        if inference is not None:
            inference.device = self.device
            inference.batch_size = 0
        return inference

    def end(self) -> Any:
        """Hand over the request, which its caller ends."""
        inference, self.inference = self.inference, None
        self.ended = True
        return inference


_iterations: weakref.WeakKeyDictionary[Any, _Iteration] = weakref.WeakKeyDictionary()
"""What pipelines have made. The iterators inside these are of the same class, and not here."""


def _observe_iter(original: Any) -> Any:
    @functools.wraps(original)
    def __iter__(self: Any) -> Any:  # noqa: N807 - it is that method
        iterator = original(self)
        iteration = _iterations.get(self)
        if iteration is not None:
            iteration.rewind()
        return iterator

    return __iter__


def _observe_next(original: Any) -> Any:
    @functools.wraps(original)
    def __next__(self: Any) -> Any:  # noqa: N807 - it is that method
        iteration = _iterations.get(self)
        if iteration is None:
            return original(self)
        if iteration.waits:
            iteration.begin(self)
        inference = iteration.inference
        if inference is not None and inference.context is not None:
            return _step(original, self, iteration, inference)
        if not iteration.ended:
            return original(self)
        token = attach(iteration.recorder.quiet_context())
        try:
            return original(self)
        finally:
            detach(token)

    return __next__


def _step(original: Any, iterator: Any, iteration: _Iteration, inference: Inference) -> Any:
    token = attach(inference.context)  # type: ignore[arg-type]
    try:
        item = original(iterator)
    except StopIteration:
        detach(token)
        iteration.end().end()
        raise
    except BaseException as error:
        detach(token)
        iteration.end().fail(error)
        raise
    detach(token)
    inference.batch_size += 1  # type: ignore[operator]
    return item
