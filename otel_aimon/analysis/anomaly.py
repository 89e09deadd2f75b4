"""Is what a metric does now unlike what it did before? One series of any metric, judged value by value.

Three questions are asked of each value, and each answer is a deviation in the unit of the metric:

- level: how far is it from what is recent, a mean over 100 values? Spikes, and the first value of a step. What is
  known to happen at this time of day is no deviation.
- burst: how far is a mean over 6 values from one over 50? Many small deviations to the same side, and spikes that
  come more often than they did.
- daily: how far is it, over 6 values, from what is usual at this time of day? What should have come and did not.
  Asked only while the time of day explains the metric.

How improbable a deviation is, its own past tells: extreme value theory fits both tails of each of the three
(``spot.py``), so that no distribution, scale or threshold has to be given, and a metric that often spikes needs a
larger spike. A deviation also has to be material: half a standard deviation of the metric at least, so that a flat
line with a little noise, or a rhythm that repeats exactly, raises nothing.

The evidence is the least of the three probabilities, as -log10. A state machine makes one detection of one
incident: evidence counts again only when it is ten times stronger, or 150 values later. Detectors without one score
close to zero on recorded series, whatever their statistic.
"""

from __future__ import annotations

from math import log10, sqrt

from otel_aimon.analysis.daily_pattern import DailyPattern
from otel_aimon.analysis.spot import CALIBRATION, LEAST_PROBABILITY, TwoSidedSpot

LEVEL_VALUES = 100
BURST_VALUES = (6, 50)
"""Values that the means go over, with exponential weights: an hour back where they come every half a minute, a day where
they come every quarter of an hour. ``docs/anomaly-benchmark.md`` says what other choices do."""

DAILY_VALUES = 6

MATERIAL = 0.5
"""Standard deviations of the metric."""

REFRACTORY_VALUES = 150
"""Values after which evidence counts again."""

ESCALATION = 1.0
"""Evidence that counts at once: so much more of it, in powers of ten."""

_SPREAD_VALUES = 1000
_CLIP = 5.0
"""Deviations count for no more than so many standard deviations when the standard deviation is learned."""

_RESOLUTION = 1e-6
"""Relative to the value: less is rounding."""

_ENVELOPE_MARGIN = 0.1
"""Standard deviations that a value may exceed what other days went to."""

_EXPLAINS = 0.6
"""Of the mean deviation from the level of the last days, what may be left by the time of day that explains it."""

_EXPLAIN_VALUES = 2000
_LARGEST = 1e18
"""No metric is larger; what is, or is not a number, is passed over."""

_MOST_EVIDENCE = -log10(LEAST_PROBABILITY)


class AnomalyDetector:
    """Follows one series; about 20 KiB of memory, however long it is.

    Attributes:
        evidence: Of the last value: -log10 of the probability of a deviation as large, 0 while nothing deviates. It
            stays up while an incident lasts, unlike the score.
        reason: What the evidence is: "level", "burst" or "daily"; "" without any.
        deviation: How far the last value, or the mean that the reason names, is from what was expected; in the unit
            of the metric.
    """

    __slots__ = (
        "_burst",
        "_burst_tails",
        "_daily_deviation",
        "_daily_tails",
        "_held",
        "_left_by_day",
        "_left_by_level",
        "_level",
        "_level_tails",
        "_pattern",
        "_seen",
        "_since_held",
        "_slow",
        "_usual",
        "_variance",
        "deviation",
        "evidence",
        "reason",
    )

    def __init__(self) -> None:
        self._level_tails, self._burst_tails, self._daily_tails = (
            TwoSidedSpot(),
            TwoSidedSpot(),
            TwoSidedSpot(),
        )
        self._pattern = DailyPattern()
        self._seen = 0
        self._level = self._burst = self._slow = self._usual = 0.0
        self._variance = self._daily_deviation = 0.0
        self._left_by_day = self._left_by_level = 0.0
        self._held = 0.0
        self._since_held = 0
        self.evidence = self.deviation = 0.0
        self.reason = ""

    @property
    def ready(self) -> bool:
        """Whether it has seen enough to say anything."""
        return self._seen > CALIBRATION

    def update(self, time_s: float, value: float) -> float | None:
        """Judge the next value, and learn from it.

        Args:
            time_s: When it was seen: seconds since 1970. Steps may be of any length, and vary.
            value: In any unit. What is not a number, or 1e18 and larger, is passed over.

        Returns:
            From 0 to 1: a tenth of the evidence where an incident starts or becomes ten times less probable, and 0
            while it goes on or nothing happens. None while the detector learns, and for a value that is passed over.
        """
        if not (-_LARGEST < value < _LARGEST and -_LARGEST < time_s < _LARGEST):
            return None
        self._seen += 1
        if self._seen == 1:
            self._level = self._burst = self._slow = self._usual = value
        self._judge(time_s, value)
        return self._detect() if self.ready else None

    def _judge(self, time_s: float, value: float) -> None:
        """Set the evidence; learn."""
        spread = sqrt(self._variance)
        material = max(MATERIAL * spread, _RESOLUTION * abs(value))
        pattern = self._pattern
        pattern.look(time_s)
        margin = _ENVELOPE_MARGIN * spread
        known = pattern.lowest - margin <= value <= pattern.highest + margin
        deviation = value - self._level
        self._learn_levels(value, deviation)
        self.evidence = self.deviation = 0.0
        self.reason = ""
        probability = self._level_tails.update(deviation)
        if not known:
            self._weigh("level", probability, deviation, material)
        ahead = self._burst - self._slow
        self._weigh("burst", self._burst_tails.update(ahead), ahead, material)
        if pattern.usual is not None:
            self._judge_by_time_of_day(value, pattern.usual, material)
        pattern.learn(value)

    def _judge_by_time_of_day(self, value: float, usual: float, material: float) -> None:
        """Ask how far the series is from what is usual at this time of day."""
        apart = value - usual
        self._daily_deviation += (apart - self._daily_deviation) / DAILY_VALUES
        self._left_by_day += (abs(apart) - self._left_by_day) / _EXPLAIN_VALUES
        self._left_by_level += (abs(value - self._usual) - self._left_by_level) / _EXPLAIN_VALUES
        probability = self._daily_tails.update(self._daily_deviation)
        if self._left_by_day < _EXPLAINS * self._left_by_level:
            self._weigh("daily", probability, self._daily_deviation, material)

    def _weigh(self, reason: str, probability: float, deviation: float, material: float) -> None:
        """Take evidence, if it is the strongest yet and the deviation is material."""
        if probability < 1.0 and abs(deviation) > material:
            evidence = -log10(probability)
            if evidence > self.evidence:
                self.evidence, self.reason, self.deviation = evidence, reason, deviation

    def _learn_levels(self, value: float, deviation: float) -> None:
        """Move the means and the spread."""
        seen = self._seen
        fast, slow = BURST_VALUES
        self._level += deviation / min(seen, LEVEL_VALUES)
        self._burst += (value - self._burst) / min(seen, fast)
        self._slow += (value - self._slow) / min(seen, slow)
        self._usual += (value - self._usual) / min(seen, _SPREAD_VALUES)
        square, variance = deviation * deviation, self._variance
        if seen > LEVEL_VALUES // 2 and 0.0 < variance * _CLIP * _CLIP < square:
            square = variance * _CLIP * _CLIP
        self._variance += (square - variance) / min(seen, _SPREAD_VALUES)

    def _detect(self) -> float:
        """The state machine: one score for one incident."""
        self._since_held += 1
        if self._since_held > REFRACTORY_VALUES:
            self._held = 0.0
        if self.evidence <= (self._held + ESCALATION if self._held else 0.0):
            return 0.0
        self._held = self.evidence
        self._since_held = 0
        return self.evidence / _MOST_EVIDENCE
