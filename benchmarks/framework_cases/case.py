"""A framework's case: a call whose work is a constant."""

from __future__ import annotations

import atexit
import functools
import inspect
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Case(NamedTuple):
    """What a case measures.

    Attributes:
        framework: Key in the registry.
        call: What is called, for the page.
        make: Returns the call. If it has attributes ``armed`` and ``disarmed``, these are called each time that
            otel-aimon has been armed, or disarmed.
        module: What must be there to be imported, where it is not the framework's key.
    """

    framework: str
    call: str
    make: Callable[[], Callable[[], Any]]
    module: str | None = None


def constant(owner, name, call):
    """Let ``owner.name`` return from now on what ``call`` returned once."""
    value = call()
    original = vars(owner)[name]

    @functools.wraps(original)
    def replaced(*_args, **_kwargs):
        return value

    @functools.wraps(original)
    async def replaced_later(*_args, **_kwargs):
        return value

    setattr(owner, name, replaced_later if inspect.iscoroutinefunction(original) else replaced)
    return call


def done(coroutine):
    """What a coroutine that waits for nothing returns, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    raise AssertionError("it waits for something")


def temporary_folder():
    """A folder that goes with the process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
