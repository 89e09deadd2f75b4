"""Serving engines: what their schedulers tell of themselves at each step, and its metrics.

An engine's step writes numbers into slots; they become metric points when metrics are collected.
"""

from __future__ import annotations

import threading
import weakref
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import CallbackOptions, Observation

from otel_aimon import semconv
from otel_aimon.core.instruments import observe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import Meter

    from otel_aimon.semconv import Metric

_GAUGES: tuple[tuple[Metric, str], ...] = (
    (semconv.ENGINE_RUNNING, "running"),
    (semconv.ENGINE_WAITING, "waiting"),
    (semconv.ENGINE_KV_CACHE, "kv_cache"),
)
_COUNTERS: tuple[tuple[Metric, str], ...] = (
    (semconv.ENGINE_PREFIX_QUERIES, "prefix_queries"),
    (semconv.ENGINE_PREFIX_HITS, "prefix_hits"),
    (semconv.ENGINE_PREEMPTIONS, "preemptions"),
    (semconv.ENGINE_DRAFT_TOKENS, "draft_tokens"),
    (semconv.ENGINE_ACCEPTED_TOKENS, "accepted_tokens"),
)


FADES_AFTER_NS = 10_000_000_000
"""After so long without a word, what an engine that tells several processes by turns said here is out of date."""


class Engine:
    """One engine; None is a value that is not known, and not exported.

    Attributes:
        attributes: Of its metric points.
        running: Requests in the running batch now.
        waiting: Requests that wait now.
        kv_cache: Share of the key-value cache in use now.
        poll: Brings what happens now up to date, where the engine does not tell of itself.
        told_ns: When it last told of itself, on the monotonic clock, where it tells several processes
            by turns: after a while what happens now is not known here. None for an engine that tells
            only this one.
        prefix_queries: Tokens looked up in the prefix cache so far.
        prefix_hits: Tokens found there so far.
        preemptions: Requests taken out of the batch so far.
        draft_tokens: Tokens proposed by speculative decoding so far.
        accepted_tokens: Those of them that were accepted.
    """

    __slots__ = (
        "__weakref__",
        "accepted_tokens",
        "attributes",
        "draft_tokens",
        "kv_cache",
        "poll",
        "preemptions",
        "prefix_hits",
        "prefix_queries",
        "running",
        "told_ns",
        "waiting",
    )

    def __init__(self, attributes: dict[str, str]) -> None:
        self.attributes = attributes
        self.running: int | None = None
        self.waiting: int | None = None
        self.kv_cache: float | None = None
        self.prefix_queries: int | None = None
        self.prefix_hits: int | None = None
        self.preemptions: int | None = None
        self.draft_tokens: int | None = None
        self.accepted_tokens: int | None = None
        self.poll: Callable[[], None] | None = None
        self.told_ns: int | None = None

    def add(self, name: str, amount: int) -> None:
        """Count on."""
        setattr(self, name, (getattr(self, name) or 0) + amount)

    def fade(self) -> None:
        """Forget what happens now, where another process may have been told since."""
        if self.told_ns is not None and monotonic_ns() - self.told_ns > FADES_AFTER_NS:
            self.running = self.waiting = self.kv_cache = None


class Engines:
    """The engines of a process. One that is garbage has no gauges any more; its counts stay."""

    def __init__(self) -> None:
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Forget the parent's engines."""
        self._lock = threading.RLock()
        self._rows: list[tuple[weakref.ref[Any], Engine]] = []

    def open(
        self,
        framework: str,
        model: str,
        number: int,
        owner: object,
        *,
        poll: Callable[[], None] | None = None,
    ) -> Engine:
        """A new engine.

        Args:
            framework: Key in the registry.
            model: Cleaned, capped model name.
            number: The framework's number for it; the next free one where another engine of the
                same model in this process has it.
            owner: The engine is there for as long as this object.
            poll: Called before its gauges are read, for an engine that does not tell of itself; takes
                microseconds, and must not raise.
        """
        with self._lock:
            taken: dict[str, Engine | None] = {}
            for alive, engine in self._rows:
                attributes = engine.attributes
                if (attributes[semconv.AIMON_FRAMEWORK], attributes[semconv.AIMON_MODEL_NAME]) == (
                    framework,
                    model,
                ):
                    taken[attributes[semconv.AIMON_ENGINE_ID]] = None if alive() is not None else engine
            while taken.get(str(number), _FREE) is None:
                number += 1
            made = Engine(
                {
                    semconv.AIMON_FRAMEWORK: framework,
                    semconv.AIMON_MODEL_NAME: model,
                    semconv.AIMON_ENGINE_ID: str(number),
                }
            )
            made.poll = poll
            former = taken.get(str(number))
            if former is not None:
                # It counts on from where the one before it stopped: counters never go down.
                for _, slot in _COUNTERS:
                    setattr(made, slot, getattr(former, slot))
                self._rows = [row for row in self._rows if row[1] is not former]
            self._rows.append((weakref.ref(owner), made))
            return made

    def present(self) -> list[Engine]:
        """Those that are there."""
        there = [engine for alive, engine in list(self._rows) if alive() is not None]
        for engine in there:
            if engine.poll is not None:
                engine.poll()
            engine.fade()
        return there

    def register(self, meter: Meter) -> None:
        """Make the instruments."""
        for metric, slot in _GAUGES:
            observe(meter, metric, self._observer(slot, gauge=True))
        for metric, slot in _COUNTERS:
            observe(meter, metric, self._observer(slot, gauge=False))

    def _observer(self, slot: str, *, gauge: bool) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_options: CallbackOptions) -> Iterable[Observation]:
            if gauge:
                self.present()
            return [
                Observation(value, engine.attributes)
                for alive, engine in list(self._rows)
                if (value := getattr(engine, slot)) is not None and not (gauge and alive() is None)
            ]

        return read


_FREE = object()
