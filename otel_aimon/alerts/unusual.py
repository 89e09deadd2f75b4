"""Rules that users write without a threshold: a signal, or an expression, that behaves as it never does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from otel_aimon.analysis.anomaly import AnomalyDetector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.alerts.thresholds import Readings, Threshold
    from otel_aimon.analysis.evidence import Evidence, Identity

MOST_DETECTORS = 32
"""Of one rule; each takes some 20 KiB."""

ON, OFF = 5.0, 1.0
"""-log10 of the probability of a deviation as large: one value in twelve thousand is as unusual by chance."""


class Unusual:
    """Judges what a :class:`Threshold` evaluates, each identity by its own past.

    Args:
        threshold: Gives the values.
    """

    def __init__(self, threshold: Threshold) -> None:
        self.rule = threshold.rule
        self._threshold = threshold
        self._detectors: dict[Identity, AnomalyDetector] = {}

    def evidences(self, readings: Readings, time: float) -> Iterator[Evidence]:
        """Evidence for everything whose detector has learned enough.

        Args:
            readings: Latest values.
            time: Seconds since 1970.
        """
        for each in self._threshold.evidences(readings, time):
            detector = self._detectors.get(each.identity)
            if detector is None:
                if len(self._detectors) >= MOST_DETECTORS:
                    continue
                detector = self._detectors[each.identity] = AnomalyDetector()
            value = each.score
            if detector.update(time, value) is not None:
                yield replace(each, score=detector.evidence, value=value)
