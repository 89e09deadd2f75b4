"""A short sampling by the sources that the product samples with."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from otel_aimon.cli.doctor.settings import captured
from otel_aimon.config import RESOURCES
from otel_aimon.resources.monitor import ResourceMonitor
from otel_aimon.resources.sampler import PATIENCE, Sampler
from otel_aimon.resources.snapshot import Snapshot

if TYPE_CHECKING:
    from otel_aimon.config import Settings

_INTERVAL = 0.3
"""Seconds between two samplings: shares are of the time between them."""

_SAMPLINGS = 2
_MOST_SECONDS = PATIENCE + 1.25
_POLL = 0.02


@dataclass(frozen=True)
class SourceState:
    """A source of readings.

    Attributes:
        name: Value of ``aimon.source``.
        available: Whether it had a reading; None when it was not asked.
        why: Why it had none.
        wrong: Whether something is wrong, rather than merely not there.
    """

    name: str
    available: bool | None
    why: str | None
    wrong: bool


def sample(settings: Settings) -> tuple[Snapshot, tuple[SourceState, ...]]:
    """Sample until shares are known, or patience ends; all threads are told to end.

    Args:
        settings: Those of the service; all resources are read, whatever it chooses.
    """
    taken: list[tuple[Snapshot, bool]] = []
    monitor = ResourceMonitor(replace(settings, resources=RESOURCES, event_loop_lag=False))
    sampler = Sampler(
        monitor.sampler.prepare,
        interval=_INTERVAL,
        on_sample=lambda snapshot, _now: taken.append(
            (snapshot, any(each._hung for each in sampler._drivers))
        ),
    )
    deadline = time.monotonic() + _MOST_SECONDS
    with captured():  # Every source says below why it has nothing.
        sampler.start()
        try:
            while time.monotonic() < deadline and not _enough(taken):
                time.sleep(_POLL)
            states = tuple(
                SourceState(
                    feed.name,
                    feed.available,
                    None if feed.why is None else str(feed.why),
                    feed.why is not None and feed.why.level >= logging.WARNING,
                )
                for feed in sampler.feeds
            )
        finally:
            sampler.stop()
    return taken[-1][0] if taken else Snapshot(), states


def _enough(taken: list[tuple[Snapshot, bool]]) -> bool:
    """Whether all drivers have answered in the last samplings: the first time takes longest, and comes too late."""
    return len(taken) >= _SAMPLINGS and not any(hung for _, hung in taken[-_SAMPLINGS:])
