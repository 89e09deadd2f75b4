"""The books of continuous batching: which request of ours is which of the framework's."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.instrumentation.transformers_model import FRAMEWORK, device_name, model_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series

_CHILD = "__child#"
"""Stands between the id of a request and the number of one of its further sequences."""


class Submitted:
    """A request in a manager.

    Attributes:
        inference: Our request.
        sequences: Sequences whose final output is still to come.
        request_id: The framework's id; None until it has made one.
        error: Why the framework gives the request up.
    """

    __slots__ = ("error", "inference", "request_id", "sequences")

    def __init__(self, inference: Inference, sequences: int) -> None:
        self.inference = inference
        self.sequences = sequences
        self.request_id: str | None = None
        self.error: BaseException | None = None


class Ledger:
    """The requests of one manager that are under way, by the framework's id.

    Several threads write here; each does so with single operations on the dictionary.
    """

    def __init__(self, series: Series, device: str | None) -> None:
        self.series = series
        self.device = device
        self.running: dict[str, Submitted] = {}

    def find(self, request_id: str) -> Submitted | None:
        """The request of an id, which may be that of a further sequence."""
        return self.running.get(request_id) or self.running.get(request_id.split(_CHILD, 1)[0])

    def take(self, request_id: str | None) -> Submitted | None:
        """Strike a request off: whoever gets it ends it."""
        return None if request_id is None else self.running.pop(request_id, None)

    def end_all(self, error: BaseException | None) -> None:
        """End all requests: nothing will come of what is still here.

        Args:
            error: Why the manager has crashed; None when it was stopped.
        """
        for request_id in list(self.running):
            entry = self.take(request_id)
            if entry is not None and error is None:
                entry.inference.cancel()
            elif entry is not None and error is not None:
                entry.inference.fail(error)

    def __del__(self) -> None:
        for entry in self.running.values():
            entry.inference.abandon()


class Ledgers:
    """The ledgers of all managers."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._by_manager: weakref.WeakKeyDictionary[Any, Ledger] = weakref.WeakKeyDictionary()

    def of(self, manager: Any) -> Ledger:
        """The ledger of a manager, begun when it is first asked for."""
        found = self._by_manager.get(manager)
        if found is None:
            series = self.recorder.series(FRAMEWORK, semconv.TEXT_COMPLETION, model_name(manager.model))
            begun = Ledger(series, device_name(manager.model))
            found = self._by_manager.setdefault(manager, begun)
            if found is begun:
                self.recorder.watch_queue(series, _queue_size(weakref.ref(manager)))
        return found


def _queue_size(manager: weakref.ref[Any]) -> Callable[[], int | None]:
    """How many requests of a manager have not been scheduled yet; takes no lock."""

    def waiting() -> int | None:
        found = manager()
        if found is None:
            return None
        processor = found.batch_processor
        scheduled_later = 0 if processor is None else len(processor.scheduler.waiting_requests)
        return len(found.input_queue.queue) + scheduled_later

    return waiting
