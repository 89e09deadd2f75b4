"""``AsyncInferQueue``: a pool of requests of which each start takes an idle one, waiting for it if need be."""

from __future__ import annotations

import functools
import weakref
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach

from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.openvino_model import Compiled, Run, definer, with_callback

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks


def hook_queues(hooks: Hooks, queue: Any) -> None:
    """Hook ``AsyncInferQueue``.

    Args:
        hooks: Of OpenVINO.
        queue: The class.
    """
    queues = _Queues(hooks.recorder)
    hooks.wrap(queue, "start_async", queues.started)
    hooks.wrap(definer(queue, "set_callback"), "set_callback", queues.called_back)
    hooks.wrap(definer(queue, "wait_all"), "wait_all", queues.waited)


class _State:
    """What is known of a queue.

    Attributes:
        compiled: Its model.
        runs: Those that have not been seen to end, by their place in the pool.
    """

    __slots__ = ("_queue", "compiled", "runs")

    def __init__(self, compiled: Compiled, queue: Any) -> None:
        self.compiled = compiled
        self.runs: dict[int, Run] = {}
        self._queue = weakref.ref(queue)

    def look(self, place: int) -> None:
        """Look without waiting whether the run of a place has ended."""
        run, queue = self.runs.get(place), self._queue()
        if run is not None and queue is not None and run.look(queue[place]):
            self.runs.pop(place, None)

    def look_at_all(self) -> None:
        """Look at every place."""
        for place in list(self.runs):
            self.look(place)

    def called_back(self, request: Any) -> Run | None:
        """The run whose callback is called, and is therefore over.

        OpenVINO calls back with a copy of the request that does not say its place. But both say how long the
        run took, to the nanosecond.
        """
        queue, latency = self._queue(), request.latency
        if queue is None:
            return None
        for place in list(self.runs):
            if queue[place].latency == latency:
                run = self.runs.pop(place, None)
                if run is not None:
                    run.called_back(request)
                return run
        return None

    def dropped(self) -> None:
        """Note that nobody waits any more."""
        for run in list(self.runs.values()):
            run.inference.abandon()


class _Queues:
    """Starts the requests of all queues; keeps none of them alive."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._states: Known[_State] = Known(_State.dropped)

    def _state(self, queue: Any) -> _State:
        known = self._states.of(queue)
        if known is not None:
            return known
        compiled = Compiled(self._recorder, queue[0].get_compiled_model())
        return self._states.learn(queue, _State(compiled, queue))

    def started(self, original: Any) -> Any:
        """Wrap ``start_async``."""

        @functools.wraps(original)
        def start_async(*args: Any, **kwargs: Any) -> Any:
            run = guarded(self._submit, args)
            if run is None:
                return original(*args, **kwargs)
            token = attach(run.context)  # type: ignore[arg-type]
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                guarded(self._refused, args[0], run)
                run.inference.fail(error)
                raise
            finally:
                detach(token)
            run.returned()
            return result

        return start_async

    def _submit(self, args: tuple[Any, ...]) -> Run | None:
        """Start the request of a run, once there is a place for it.

        Waiting for the place is what the original would do first, so that its time is that of a queue.
        """
        if not args:
            return None
        queue, since = args[0], (perf_counter_ns(), time_ns())
        state = self._state(queue)
        try:
            place = queue.get_idle_request_id()
        except Exception:
            # An earlier run has failed. The original is about to raise the same.
            place = None
        waited_ns = perf_counter_ns() - since[0]
        if place is not None:
            state.look(place)
        inference = state.compiled.start(queue[place or 0], since=since)
        if inference is None:
            return None
        run = Run(inference, state.compiled, is_watched=place is not None)
        if place is not None:
            inference.queue_ns = waited_ns
            state.runs[place] = run
        return run

    def _refused(self, queue: Any, run: Run) -> None:
        runs = self._state(queue).runs
        for place in [place for place, each in list(runs.items()) if each is run]:
            runs.pop(place, None)

    def waited(self, original: Any) -> Any:
        """Wrap ``wait_all``, which raises what the first failed run has raised."""

        @functools.wraps(original)
        def wait_all(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            finally:
                state = self._states.of(args[0]) if args else None
                if state is not None:
                    guarded(state.look_at_all)

        return wait_all

    def called_back(self, original: Any) -> Any:
        """Wrap ``set_callback``: what the user's callback does belongs to the run's trace."""

        @functools.wraps(original)
        def set_callback(*args: Any, **kwargs: Any) -> Any:
            replaced = guarded(self._replaced, args, kwargs)
            return original(*args, **kwargs) if replaced is None else original(*replaced[0], **replaced[1])

        return set_callback

    def _replaced(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not args:
            return None
        state = self._state(args[0])
        return with_callback(args, kwargs, functools.partial(_observe_callback, state))


def _observe_callback(state: _State, callback: Callable[..., Any]) -> Any:
    def called(request: Any, userdata: Any) -> Any:
        run = guarded(state.called_back, request)
        if run is None:
            return callback(request, userdata)
        token = attach(run.context)  # type: ignore[arg-type]
        try:
            return callback(request, userdata)
        finally:
            detach(token)

    return called
