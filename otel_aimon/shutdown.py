"""Flushes where a server ends its process without exit handlers, so that its last requests arrive.

OpenTelemetry flushes when the interpreter exits. uvicorn, once it has stopped serving, lets the signal that
stopped it end the process, which never comes that far. Worker processes of model servers are ended by a signal
in the middle of whatever they do.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import weakref
from typing import TYPE_CHECKING, Any

import wrapt

from otel_aimon.core.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.instrumentation.hooks import Hooks
    from otel_aimon.runtime import Runtime

_MOST_SECONDS = 5.0
"""A backend that does not answer holds up the end of the process for no longer than this."""


def watch(runtime: Runtime, current: Callable[[], Runtime | None]) -> None:
    """Flush ``runtime`` and its providers when a server has stopped serving.

    Args:
        runtime: Whose requests are flushed; its ``shutdown_hooks`` remember what was hooked.
        current: Gives the runtime that is alive when the server is imported.
    """
    reference = weakref.ref(runtime)

    def on_import(module: Any) -> None:
        # Import hooks cannot be taken back: one of a runtime that has stopped holds and does nothing.
        watched = reference()
        if watched is not None and watched is current():
            guarded(_hook_uvicorn, watched.shutdown_hooks, watched, module)

    wrapt.register_post_import_hook(on_import, "uvicorn.server")


def _hook_uvicorn(hooks: Hooks, runtime: Runtime, module: Any) -> None:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def shutdown(*args: Any, **kwargs: Any) -> Any:
            result = await original(*args, **kwargs)
            flush_in_time(runtime)
            return result

        return shutdown

    hooks.wrap(module.Server, "shutdown", make)


def flush_in_time(runtime: Runtime) -> None:
    """Flush everything, but give up after a few seconds: the process is about to end."""

    def flush() -> None:
        runtime.force_flush(providers=True)

    flushing = threading.Thread(target=guarded, args=(flush,), name="aimon-flush", daemon=True)
    flushing.start()
    flushing.join(_MOST_SECONDS)


def flush_when_terminated(current: Callable[[], Runtime | None]) -> None:
    """Flush everything when SIGTERM ends this process, unless the program has a handler of its own for it.

    For processes that nothing but a signal ever ends; the signal ends them all the same.

    Args:
        current: Gives the runtime that is alive then.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def end(number: int, _frame: Any) -> None:
        runtime = current()
        if runtime is not None:
            flush_in_time(runtime)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
