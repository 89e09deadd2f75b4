"""OpenVINO: each inference of a compiled model is one request.

Calls of a compiled model end up in ``InferRequest.infer``. A run that is started asynchronously ends for
us when its user waits for it, or when their callback is called, on a thread of OpenVINO's own; nothing of ours is
called where they have none.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach

from otel_aimon.core.call import observed
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.openvino_model import Compiled, Run, definer, with_callback
from otel_aimon.instrumentation.openvino_queue import hook_queues

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

_WAITS = ("wait", "wait_for")


def hook_requests(hooks: Hooks, module: Any) -> None:
    """Hook the classes that run a model.

    Args:
        hooks: Of OpenVINO.
        module: ``openvino``.
    """
    request = module.InferRequest
    requests = _Requests(hooks.recorder)
    hooks.wrap(module.CompiledModel, "create_infer_request", requests.created)
    infer = functools.partial(observed, begin=requests.begin, finish=requests.finish)
    hooks.wrap(request, "infer", infer)
    hooks.wrap(request, "start_async", requests.started)
    for name in _WAITS:
        hooks.wrap(definer(request, name), name, requests.waited)
    hooks.wrap(definer(request, "set_callback"), "set_callback", requests.called_back)
    hooks.wrap(definer(request, "cancel"), "cancel", requests.cancelled)
    hook_queues(hooks, module.AsyncInferQueue)


class _State:
    """What is known of an ``InferRequest``.

    Attributes:
        compiled: Its model.
        owner: The ``InferRequest``.
        run: The asynchronous run that has not been seen to end, if there is one.
    """

    __slots__ = ("compiled", "owner", "run")

    def __init__(self, compiled: Compiled, owner: Any) -> None:
        self.compiled = compiled
        self.owner = weakref.ref(owner)
        self.run: Run | None = None

    def dropped(self) -> None:
        """Note that nobody waits any more."""
        if self.run is not None:
            self.run.inference.abandon()


class _Requests:
    """Starts the requests of all ``InferRequest`` objects; keeps none of them alive."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._models: Known[Compiled] = Known()
        self._states: Known[_State] = Known(_State.dropped)

    def created(self, original: Any) -> Any:
        """Wrap ``create_infer_request``, by which a model is read once for all of its requests."""

        @functools.wraps(original)
        def create_infer_request(*args: Any, **kwargs: Any) -> Any:
            request = original(*args, **kwargs)
            guarded(self._learn, args[0] if args else None, request)
            return request

        return create_infer_request

    def _learn(self, model: Any, request: Any) -> None:
        compiled = self._models.of(model) or self._models.learn(model, Compiled(self._recorder, model))
        self._states.learn(request, _State(compiled, request))

    def _state(self, request: Any) -> _State:
        """What is known of a request; one that a queue has made is read now."""
        known = self._states.of(request)
        if known is not None:
            return known
        compiled = Compiled(self._recorder, request.get_compiled_model())
        return self._states.learn(request, _State(compiled, request))

    def begin(self, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
        """Start the request of a synchronous run."""
        return self._state(args[0]).compiled.start(args[0]) if args else None

    def finish(
        self, inference: Inference, args: tuple[Any, ...], _kwargs: dict[str, Any], _result: Any
    ) -> None:
        """Read the items of a synchronous run."""
        self._state(args[0]).compiled.read_items(inference, args[0])

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
                run.inference.fail(error)
                raise
            finally:
                detach(token)
            run.returned()
            return result

        return start_async

    def _submit(self, args: tuple[Any, ...]) -> Run | None:
        if not args:
            return None
        state = self._state(args[0])
        if state.run is not None and not state.run.look(args[0]):
            # Busy: this start is going to be refused, and the run before goes on.
            inference = state.compiled.start(args[0])
            return None if inference is None else Run(inference, state.compiled, is_watched=False)
        inference = state.compiled.start(args[0])
        state.run = None if inference is None else Run(inference, state.compiled)
        return state.run

    def waited(self, original: Any) -> Any:
        """Wrap a method that waits, for ever or for a while."""

        @functools.wraps(original)
        def wait(*args: Any, **kwargs: Any) -> Any:
            state = self._states.of(args[0]) if args else None
            run = None if state is None else state.run
            try:
                ended = original(*args, **kwargs)
            except BaseException as error:
                if run is not None:
                    run.failed(error)
                raise
            if state is not None and run is not None and ended is not False:
                guarded(run.ended, args[0])
                if state.run is run:
                    state.run = None
            return ended

        return wait

    def cancelled(self, original: Any) -> Any:
        """Wrap ``cancel``, which does nothing to a run that has ended."""

        @functools.wraps(original)
        def cancel(*args: Any, **kwargs: Any) -> Any:
            state = self._states.of(args[0]) if args else None
            if state is not None and state.run is not None:
                state.run.is_cancelled = True
            return original(*args, **kwargs)

        return cancel

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


def _observe_callback(state: _State, callback: Callable[[Any], Any]) -> Any:
    def called(userdata: Any) -> Any:
        run, state.run = state.run, None
        if run is None:
            return callback(userdata)
        guarded(_called_back, run, state)
        token = attach(run.context)  # type: ignore[arg-type]
        try:
            return callback(userdata)
        finally:
            detach(token)

    return called


def _called_back(run: Run, state: _State) -> None:
    owner = state.owner()
    if owner is not None:
        run.called_back(owner)
