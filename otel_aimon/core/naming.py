"""Model names and error types: short, free of private paths, and bounded in number."""

from __future__ import annotations

import itertools
import re
import threading
from functools import lru_cache
from typing import Generic, TypeVar

from otel_aimon import semconv

MAX_NAME_LENGTH = 128
_LONGEST_READ = 4096

_HUB_PREFIX = "models--"
_SEPARATORS = re.compile(r"[/\\]")

T = TypeVar("T")


def clean_model_name(raw: str) -> str:
    """Make a name that is fit for a label of ``raw``, a hub name or a file path.

    A path says where somebody keeps their files, so only its last part is kept; a snapshot in a
    hub's cache gets its hub name back.

    Args:
        raw: What the framework calls the model.

    Returns:
        At most 128 printable characters; ``unknown`` when nothing is left.
    """
    # The tail bounds the work and the memory that a hostile name of many megabytes could cost.
    return _clean(raw if len(raw) <= _LONGEST_READ else raw[-_LONGEST_READ:])


@lru_cache(maxsize=1024)
def _clean(raw: str) -> str:
    text = _printable(raw)
    if "://" in text:
        # A query may hold a key, and what stands before the host a password.
        text = "/" + re.split(r"[?#]", text.partition("://")[2])[0].rpartition("@")[2]
    parts = _SEPARATORS.split(text.rstrip("/\\"))
    for folder, inner in itertools.pairwise(parts):
        if folder.startswith(_HUB_PREFIX) and inner == "snapshots":
            return folder[len(_HUB_PREFIX) :].replace("--", "/", 1)[:MAX_NAME_LENGTH]
    path_like = (
        text.startswith(("/", "./", "../", "~")) or "\\" in text or text[1:3] == ":/" or text.count("/") > 1
    )
    if path_like:
        text = parts[-1]
    return text[:MAX_NAME_LENGTH].strip() or "unknown"


def bounded_text(raw: str) -> str:
    """At most 128 printable characters of a name that somebody else makes up."""
    return _printable(raw[:MAX_NAME_LENGTH]) or "unknown"


def _printable(text: str) -> str:
    # Half a surrogate pair, as in a file name that is no UTF-8, would make a whole export fail.
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
        text = " ".join(text.split())
    return text.strip()


def error_type(error: BaseException) -> str:
    """The value of ``error.type`` for ``error``: its class, never its message.

    Args:
        error: The exception that ended the request.

    Returns:
        ``ValueError``, ``torch.OutOfMemoryError``, …, or ``cancelled`` when the request was not
        wanted any more (task cancelled, generator closed, interpreter told to stop).
    """
    if isinstance(error, _cancellations()):
        return semconv.ERROR_TYPE_CANCELLED
    cls = type(error)
    if cls.__module__ in {"builtins", "__main__"}:
        return cls.__qualname__[:MAX_NAME_LENGTH]
    return f"{cls.__module__}.{cls.__qualname__}"[:MAX_NAME_LENGTH]


def _cancellations() -> tuple[type[BaseException], ...]:
    # asyncio and concurrent.futures share CancelledError classes with names only; importing
    # asyncio costs milliseconds that a synchronous service does not owe us.
    import sys

    found: list[type[BaseException]] = [GeneratorExit, KeyboardInterrupt, SystemExit]
    for module in ("asyncio", "concurrent.futures"):
        cancelled = getattr(sys.modules.get(module), "CancelledError", None)
        if cancelled is not None:
            found.append(cancelled)
    return tuple(found)


class Capped(Generic[T]):
    """A bounded set of distinct values; whatever comes after the cap becomes ``overflow``."""

    def __init__(self, limit: int, overflow: T) -> None:
        self._limit = limit
        self._overflow = overflow
        self._seen: set[T] = set()
        self._lock = threading.Lock()
        self.overflowed = 0

    def admit(self, value: T) -> T:
        """Return ``value`` when it is known or there is room for it, else the overflow value."""
        if value in self._seen:
            return value
        with self._lock:
            if value in self._seen or len(self._seen) < self._limit:
                self._seen.add(value)
                return value
            self.overflowed += 1
            return self._overflow

    def after_fork_in_child(self) -> None:
        """Replace the lock, which another thread of the parent may have held, and count from zero."""
        self._lock = threading.Lock()
        self.overflowed = 0
