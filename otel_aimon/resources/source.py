"""What the sampler asks of a source of readings, and how a source says that it has none."""

from __future__ import annotations

import logging
import threading
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger("otel_aimon")

T_co = TypeVar("T_co", covariant=True)

RETRY_SECONDS = 60.0


class UnavailableError(Exception):
    """A source has nothing to read now.

    Args:
        why: One sentence that names the thing and the remedy; logged once.
        level: Level of that line; DEBUG where nothing is wrong, as on a machine without a GPU.
        retry: Seconds until the source is asked again.
    """

    def __init__(self, why: str, *, level: int = logging.WARNING, retry: float = RETRY_SECONDS) -> None:
        super().__init__(why)
        self.level = level
        self.retry = retry


class Source(Protocol, Generic[T_co]):
    """Reads one kind of resource. Only one thread calls it at a time."""

    def read(self) -> T_co:
        """The current values.

        Raises:
            UnavailableError: When there are none.
        """

    def after_fork_in_child(self) -> None:
        """Forget what belongs to the parent: handles, deltas, the process itself."""

    def close(self) -> None:
        """Give back what is held."""


class Notices:
    """Logs each thing once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def say(self, key: str, level: int, message: str, *args: object) -> None:
        """Log ``message`` unless ``key`` was said before.

        Args:
            key: What it is about, in stable words.
            level: As in :mod:`logging`.
            message: Names otel-aimon, the thing and the remedy.
            args: For the message.
        """
        with self._lock:
            if key in self._said:
                return
            self._said.add(key)
        logger.log(level, message, *args)

    def forget(self, prefix: str) -> None:
        """Let what begins with ``prefix`` be said again, because it was well in between."""
        with self._lock:
            self._said = {key for key in self._said if not key.startswith(prefix)}

    def after_fork_in_child(self) -> None:
        """A lock of its own."""
        self._lock = threading.Lock()


notices = Notices()
"""Of this process."""
