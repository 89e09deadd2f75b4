"""SGLang: one request per prompt, from its submission to the tokenizer manager to its last output.

Everything happens in the front end, the process that has the ``TokenizerManager``: that of an ``Engine`` or
of the HTTP server. The scheduler and the detokenizer are processes of their own and stay silent. A prompt is
submitted in ``generate_request``, which all of SGLang's interfaces call; it ends where the scheduler's last
output of it arrives, since results that are not streamed are never read to the end of their generator.
Nothing is hooked that runs once per step and request.
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import os
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach, set_value

from otel_aimon import runtime
from otel_aimon.core.call import leave, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.stream import observed_async_stream
from otel_aimon.instrumentation.sglang_calls import Call, current_call
from otel_aimon.instrumentation.sglang_outputs import finished_in
from otel_aimon.instrumentation.sglang_requests import ENGINE_DEAD, Ledger, Requests
from otel_aimon.instrumentation.sglang_serving import OPERATION, hook_ollama, hook_serving
from otel_aimon.shutdown import flush_in_time

if TYPE_CHECKING:
    from otel_aimon.instrumentation.hooks import Hooks

__all__ = ["hook_engine", "hook_ollama", "hook_scheduler", "hook_serving", "hook_tokenizer_manager"]


class _Books:
    """The books of this process; None while it is not instrumented.

    An engine may hold methods that it looked up under a former instrumentation: they write in the same books.
    """

    requests: Requests | None = None


def _open_books(hooks: Hooks) -> None:
    """Open the books that all hooks of one arming share."""
    if _Books.requests is None or _Books.requests.recorder is not hooks.recorder:
        mine = _Books.requests = Requests(hooks.recorder)

        def close() -> None:
            if _Books.requests is mine:
                _Books.requests = None

        hooks.on_restore(close)


def _ledger(manager: Any) -> Ledger | None:
    """The ledger of a tokenizer manager that has had a request."""
    return None if _Books.requests is None else _Books.requests.known(manager)


def hook_tokenizer_manager(hooks: Hooks, module: Any) -> None:
    """Hook the ``TokenizerManager``: submission, outputs, and the end of its process."""
    _open_books(hooks)
    manager = module.TokenizerManager
    # Without the place where prompts go to the scheduler, their requests would never begin.
    if not hooks.wrap(manager, "_wait_one_response", _observe_dispatch, ("obj",)):
        return
    hooks.wrap(manager, "generate_request", _observe_call, ("obj", "request"))
    hooks.wrap(manager, "_handle_batch_output", _observe_outputs, ("recv_obj",))
    hooks.wrap(manager, "_handle_abort_req", _observe_abort, ("recv_obj",))
    for owner in manager.__mro__:
        if "score_request" in vars(owner):
            hooks.wrap(owner, "score_request", _observe_score)
    hooks.wrap(module, "kill_process_tree", _observe_kill, ("parent_pid",))


# --- submission --------------------------------------------------------------------------------


def _observe_call(original: Any) -> Any:
    @functools.wraps(original)
    def followed(generator: Any, _call: Call) -> Any:
        return generator

    follow = observed_async_stream(followed, _begin, Call.read)  # type: ignore[arg-type]

    @functools.wraps(original)
    def generate_request(self: Any, obj: Any, request: Any = None, *args: Any, **kwargs: Any) -> Any:
        generator = original(self, obj, request, *args, **kwargs)
        call = guarded(_call, self, obj, request)
        if call is None:
            return generator
        stream = follow(generator, call)
        # SGLang's engine may run on for a generator that is dropped, until its event loop runs again.
        call.watch_over(stream)
        return stream

    return generate_request


def _begin(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
    call: Call = args[1]
    return call.begin()


def _call(manager: Any, obj: Any, request: Any) -> Call | None:
    requests = _Books.requests
    # SGLang's probes of its own health do not count in its statistics either.
    if requests is None or requests.recorder.closed or getattr(obj, "log_metrics", True) is False:
        return None
    return Call(requests, manager, obj, request)


def _observe_dispatch(original: Any) -> Any:
    @functools.wraps(original)
    def _wait_one_response(self: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        call = current_call()
        if call is not None:
            guarded(call.enter, self, obj)
        return original(self, obj, *args, **kwargs)

    return _wait_one_response


def _observe_score(original: Any) -> Any:
    @functools.wraps(original)
    async def score_request(*args: Any, **kwargs: Any) -> Any:
        token = attach(set_value(OPERATION, "score"))
        try:
            result = await original(*args, **kwargs)
        except BaseException as error:
            leave(token, error)
            raise
        detach(token)
        return result

    return score_request


# --- outputs -----------------------------------------------------------------------------------


def _observe_outputs(original: Any) -> Any:
    def before(manager: Any, outputs: Any) -> tuple[Ledger, list[int]] | None:
        ledger = _ledger(manager)
        if ledger is None:
            return None
        ledger.sees_outputs = True
        finished = finished_in(outputs)
        return (ledger, finished) if finished else None

    def after(seen: tuple[Ledger, list[int]], outputs: Any) -> None:
        ledger, finished = seen
        ledger.finish(outputs, finished)

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def handle(self: Any, recv_obj: Any, *args: Any, **kwargs: Any) -> Any:
            seen = guarded(before, self, recv_obj)
            result = await original(self, recv_obj, *args, **kwargs)
            if seen is not None:
                guarded(after, seen, recv_obj)
            return result

        return handle

    @functools.wraps(original)
    def _handle_batch_output(self: Any, recv_obj: Any, *args: Any, **kwargs: Any) -> Any:
        seen = guarded(before, self, recv_obj)
        result = original(self, recv_obj, *args, **kwargs)
        if seen is not None:
            guarded(after, seen, recv_obj)
        return result

    return _handle_batch_output


def _observe_abort(original: Any) -> Any:
    @functools.wraps(original)
    def _handle_abort_req(self: Any, recv_obj: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, recv_obj, *args, **kwargs)
        ledger = _ledger(self)
        if ledger is not None:
            reason = getattr(recv_obj, "finished_reason", None)
            guarded(ledger.abort, recv_obj.rid, reason if isinstance(reason, dict) else None)
        return result

    return _handle_abort_req


# --- the end of an engine ----------------------------------------------------------------------


def hook_engine(hooks: Hooks, module: Any) -> None:
    """Hook ``Engine``."""
    _open_books(hooks)
    hooks.wrap(module.Engine, "shutdown", _observe_shutdown)


def _observe_shutdown(original: Any) -> Any:
    @functools.wraps(original)
    def shutdown(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            guarded(_close, getattr(self, "tokenizer_manager", None))

    return shutdown


def _close(manager: Any) -> None:
    ledger = None if manager is None else _ledger(manager)
    if ledger is not None:
        ledger.close_all()
        ledger.engines.close()


def _observe_kill(original: Any) -> Any:
    """SGLang kills its whole process tree when a part of it fails, and old versions when they have drained."""

    @functools.wraps(original)
    def kill_process_tree(parent_pid: Any, *args: Any, **kwargs: Any) -> Any:
        itself = args[0] if args else kwargs.get("include_parent", True)
        if itself and parent_pid == os.getpid():
            guarded(_last_words)
        return original(parent_pid, *args, **kwargs)

    return kill_process_tree


def _last_words() -> None:
    for ledger in () if _Books.requests is None else _Books.requests.ledgers():
        ledger.close_all(ENGINE_DEAD)
    running = runtime.current()
    if running is not None:
        flush_in_time(running)


# --- the scheduler -----------------------------------------------------------------------------


def hook_scheduler(hooks: Hooks, module: Any) -> None:
    """Keep the scheduler silent, a process of its own: a step there works on many requests at once."""

    def observe(original: Any) -> Any:
        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it is that method
            if multiprocessing.parent_process() is not None:
                hooks.recorder.close()
            return quiet(original, hooks.recorder)(self, *args, **kwargs)

        return __init__

    hooks.wrap(module.Scheduler, "__init__", observe)
