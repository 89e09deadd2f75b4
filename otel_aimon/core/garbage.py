"""Finalisers that run inside the garbage collector, where Python before 3.12 must not set a context variable.

There the collector may run in the middle of ``ContextVar.set``, and a finaliser that sets a variable of
the same context frees what the interrupted call still reads: the process crashes. From Python 3.12 on the
collector waits until the interpreter is between two instructions.
"""

from __future__ import annotations

import gc
import sys
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

_collecting: int | None = None
"""The thread that the collector runs on, where that is of any danger."""


def _note(phase: str, _info: dict[str, int]) -> None:
    global _collecting
    _collecting = threading.get_ident() if phase == "start" else None


if sys.version_info < (3, 12):
    gc.callbacks.append(_note)


def collecting() -> bool:
    """Whether this thread is inside the garbage collector and must leave its context as it is."""
    return _collecting is not None and _collecting == threading.get_ident()


def apart(step: Callable[[Any], Any], context: Context) -> Callable[[Any], Any]:
    """Let ``step`` run with ``context`` current, in a copy of the thread's context.

    What it sets there is gone with the copy, and the thread's own is not touched.
    """

    def run(argument: Any) -> Any:
        attach(context)
        return step(argument)

    return lambda argument: copy_context().run(run, argument)
