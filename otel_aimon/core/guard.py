"""No error of ours reaches the application: it is logged once per place, counted, and forgotten.

Under our own tests :data:`RERAISE` is set, so that a swallowed error fails the test instead.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("otel_aimon")

RERAISE = os.environ.get("OTEL_AIMON_TEST_RERAISE") == "1"
"""Set by our own tests only. Not a setting for users."""

_MAX_PLACES = 256


class _Swallowed:
    """Counts errors and remembers the places that were logged."""

    def __init__(self) -> None:
        self.count = 0
        self._places: set[str] = set()
        # A finaliser that fails may interrupt its own thread here.
        self._lock = threading.RLock()

    def first_at(self, place: str) -> bool:
        with self._lock:
            self.count += 1
            if place in self._places or len(self._places) >= _MAX_PLACES:
                return False
            self._places.add(place)
            return True

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        self.count = 0


_swallowed = _Swallowed()


def swallow(error: BaseException, place: str) -> None:
    """Keep ``error`` from the application.

    Args:
        error: What our code raised.
        place: Where, in a few stable words; the first error of each place is logged with its trace.

    Raises:
        BaseException: ``error`` itself, under our own tests.
    """
    if RERAISE:
        raise error
    if _swallowed.first_at(place):
        logger.error(
            "otel-aimon failed in %s (%s); the application goes on without this telemetry. "
            "Further errors here are only counted, in aimon.selfmon.errors.",
            place,
            type(error).__name__,
            exc_info=error,
        )


def guarded(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Call a function of ours so that its error stays here; None when it raised one."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        swallow(error, function.__qualname__)
        return None


def swallowed_count() -> int:
    """How many errors were swallowed in this process."""
    return _swallowed.count


def after_fork_in_child() -> None:
    """Give the child locks of its own and a count that starts at zero."""
    _swallowed.after_fork_in_child()
