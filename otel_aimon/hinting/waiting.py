"""Those that wait for a slot: threads and tasks in one queue, by priority and then by arrival."""

from __future__ import annotations

import asyncio
import heapq
import threading
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiter:
    """One that waits.

    Its state changes only under the limiter's lock: either it is granted a slot, or it gives up, never both.

    Args:
        wake: Wakes it up; called from any thread.

    Attributes:
        granted: It has a slot.
        granted_at: Since then, in monotonic seconds.
        epoch: Counts the forks before that.
        gone: It no longer waits.
    """

    __slots__ = ("epoch", "gone", "granted", "granted_at", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.granted = False
        self.gone = False
        self.granted_at = 0.0
        self.epoch = 0


class WaitingQueue:
    """Not thread-safe: the limiter's lock protects it.

    Attributes:
        entries: A heap; those that are gone are still in it for a while.
    """

    __slots__ = ("_number", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, Waiter]] = []
        self._number = count()

    def add(self, waiter: Waiter, priority: int) -> None:
        """Queue a waiter; a higher priority comes first."""
        heapq.heappush(self.entries, (-priority, next(self._number), waiter))

    def first(self) -> tuple[int, Waiter] | None:
        """Priority and waiter that comes next; None when nobody waits."""
        while self.entries and self.entries[0][2].gone:
            heapq.heappop(self.entries)
        return (-self.entries[0][0], self.entries[0][2]) if self.entries else None

    def remove_first(self) -> None:
        """Take away what :meth:`first` gave."""
        heapq.heappop(self.entries)


def thread_waiter() -> tuple[Waiter, threading.Event]:
    """A waiter for a thread, and what the thread waits on."""
    event = threading.Event()
    return Waiter(event.set), event


def task_waiter() -> tuple[Waiter, asyncio.Event]:
    """A waiter for the current task, and what the task waits on."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            # The loop is closed: the task is gone, and gave up when it was cancelled.
            return

    return Waiter(wake), event
