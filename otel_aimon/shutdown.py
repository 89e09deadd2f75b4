"""Flushes where a server ends its process without exit handlers, so that its last requests arrive.

OpenTelemetry flushes when the interpreter exits. uvicorn, once it has stopped serving, lets the signal that
stopped it end the process, which never comes that far.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

import wrapt

from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.hooks import Hooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.runtime import Runtime

_MOST_SECONDS = 5.0
"""A backend that does not answer holds up the end of the process for no longer than this."""


def watch(runtime: Runtime, current: Callable[[], Runtime | None]) -> Hooks:
    """Flush ``runtime`` and its providers when a server has stopped serving.

    Args:
        runtime: Whose requests are flushed.
        current: Gives the runtime that is alive when the server ends.

    Returns:
        What was hooked, to be restored when the runtime stops.
    """
    hooks = Hooks("uvicorn", runtime.recorder, runtime.settings)

    def on_import(module: Any) -> None:
        # Import hooks cannot be taken back; one of a runtime that has stopped does nothing.
        if current() in {None, runtime}:
            guarded(_hook_uvicorn, hooks, runtime, module)

    wrapt.register_post_import_hook(on_import, "uvicorn.server")
    return hooks


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
