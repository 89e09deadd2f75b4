"""What serving engines tell of their batch and their key-value cache, for the alert rules."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from otel_aimon import semconv
from otel_aimon.analysis.evidence import Evidence, Identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_aimon.core.engines import Engine

WINDOW = 60.0
"""Seconds over which preemptions are counted."""


class EngineWatch:
    """Follows the engines of a process.

    Attributes:
        kv_cache: Share of the fullest engine's key-value cache that is in use; None when no engine tells.
        preemptions: Preemptions in a second of the engine with the most; None when no engine tells.
    """

    def __init__(self) -> None:
        self._counts: dict[Identity, deque[tuple[float, int]]] = {}
        self.kv_cache: float | None = None
        self.preemptions: float | None = None

    def evidence(self, engines: Iterable[Engine], now: float) -> Iterator[Evidence]:
        """Evidence for ``kv.pressure`` and ``kv.preemptions``, for each engine that tells.

        Args:
            engines: Those that are there.
            now: Monotonic seconds.
        """
        self.kv_cache = self.preemptions = None
        known: dict[Identity, deque[tuple[float, int]]] = {}
        for engine in engines:
            who = _identity(engine)
            if engine.kv_cache is not None:
                self.kv_cache = max(self.kv_cache or 0.0, engine.kv_cache)
                yield Evidence("kv.pressure", who, engine.kv_cache, value=engine.kv_cache)
            if engine.preemptions is not None:
                counts = known[who] = self._counts.get(who, deque())
                rate = _rate(counts, now, engine.preemptions)
                self.preemptions = max(self.preemptions or 0.0, rate)
                yield Evidence("kv.preemptions", who, rate, value=rate, window=WINDOW)
        self._counts = known


def _rate(counts: deque[tuple[float, int]], now: float, total: int) -> float:
    counts.append((now, total))
    while counts[0][0] < now - WINDOW:
        counts.popleft()
    # A counter that went back belongs to another engine.
    return max(0, total - counts[0][1]) / WINDOW


def _identity(engine: Engine) -> Identity:
    attributes = engine.attributes
    return tuple((key, attributes[key]) for key in (semconv.AIMON_ENGINE_ID, semconv.AIMON_MODEL_NAME))
