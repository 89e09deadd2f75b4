"""One series of latencies: what is usual, how noisy it is, and whether it shifted or drifts."""

from __future__ import annotations

from math import exp, inf, log, sqrt
from typing import TYPE_CHECKING, Any

from otel_aimon.analysis.autoregression import Autoregression
from otel_aimon.analysis.daily_profile import DailyProfile
from otel_aimon.analysis.level_shift import LevelShift
from otel_aimon.analysis.recovery import Recovery
from otel_aimon.analysis.slow_drift import SlowDrift

if TYPE_CHECKING:
    from otel_aimon.analysis.tick import Tick

_QUANTILE_ERROR = 2.1
"""Standard error of the logarithm of a 95th percentile: ``2.1 * log_sd / sqrt(n)`` for log-normal latencies."""

_UNKNOWN_LOG_SD = 0.5
_RESOLUTION = 1e-5
_CLIP = 3.0
_LOAD_SMOOTHING = 0.1
_LOAD_CLIP = 0.7
_LOAD_MOST = 1.0
_LARGEST_SLOPE = 0.6
_SLOPE_RATE = 1e-4


class LoadSlope:
    """By how much latency follows the load: a regression of its residual on that of the load.

    A weekend has less traffic than the profile of the week expects, and less latency with it; a Monday more.
    """

    __slots__ = ("_cross", "_square", "deviation")

    def __init__(self) -> None:
        self._cross = 0.0
        self._square = 1e-6
        self.deviation = 0.0

    @property
    def effect(self) -> float:
        """What the load explains of the latency's residual now."""
        return min(_LARGEST_SLOPE, max(0.0, self._cross / self._square)) * self.deviation

    def learn(self, residual: float) -> None:
        """Take the residual of the latency at the present load."""
        self._cross += _SLOPE_RATE * (self.deviation * residual - self._cross)
        self._square += _SLOPE_RATE * (self.deviation * self.deviation + 1e-4 - self._square)

    def follow(self, load_residual: float) -> None:
        """Take the logarithm of the traffic minus what is usual."""
        clipped = max(-_LOAD_CLIP, min(_LOAD_CLIP, load_residual))
        self.deviation += _LOAD_SMOOTHING * (clipped - self.deviation)

    def state(self) -> dict[str, float]:
        """What was learned, for a file."""
        return {"cross": self._cross, "square": self._square}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        cross, square = float(state["cross"]), float(state["square"])
        if not (abs(cross) < inf and 0.0 < square < inf):
            raise ValueError("a slope is a finite ratio")
        self._cross, self._square = cross, square


class LatencyWatch:
    """Follows one series.

    Attributes:
        residual: Logarithm of the latency minus what is usual at this time and load; None without latency.
        white: Variance of its white noise.
        usual: The usual latency, in seconds; None before anything is known.
        noise: What is known of the noise.
        shift: The test for a step.
        drift: The test for a creep.
    """

    __slots__ = (
        "_latency", "_load", "_per_request", "_per_token", "_raw", "_recovery", "_seen", "_slope",
        "drift", "noise", "residual", "shift", "usual", "white",
    )  # fmt: skip

    def __init__(self, tick_seconds: float) -> None:
        # A tick in which the tokens of one request are unknown has a latency per request only.
        self._per_token = DailyProfile(tick_seconds)
        self._latency = self._per_request = DailyProfile(tick_seconds)
        self._load = DailyProfile(tick_seconds)
        self._slope = LoadSlope()
        self._raw = self._seen = 0.0
        self.noise = Autoregression(tick_seconds)
        self.shift = LevelShift()
        self.drift = SlowDrift()
        self._recovery = Recovery()
        self.residual: float | None = None
        self.white = 0.0
        self.usual: float | None = None

    def see(self, time: float, tick: Tick) -> None:
        """Take a tick, without learning from it yet.

        Args:
            time: Seconds; the time of day counts.
            tick: What ended.
        """
        latency = tick.normalised
        succeeded = tick.count - tick.errors
        if latency is None or succeeded <= 0:
            self.residual = None
            return
        self._latency = self._per_token if tick.p95_per_token is not None else self._per_request
        seen = self._seen = log(max(latency, 1e-9))
        level = self._latency.at(time)
        self._raw = 0.0 if level is None else seen - level
        self.residual = self._raw - self._slope.effect
        self.usual = latency if level is None else latency / exp(self.residual)
        spread = _QUANTILE_ERROR * (tick.log_sd if tick.log_sd is not None else _UNKNOWN_LOG_SD)
        self.white = spread * spread / succeeded + _RESOLUTION

    def judge(self, common: float = 0.0) -> None:
        """Let the tests take the residual.

        Args:
            common: The part of it that all models share, and that is told of all together.
        """
        if self.residual is not None:
            own = self.residual - common
            self.shift.add(own, self.white, self.noise.rho, self.noise.variance)
            self.drift.add(own, self.white, self.noise)
            self._recovery.add(own, self.white, self.noise, self.shift, self.drift)

    def learn(self, time: float, *, slope: bool) -> None:
        """Let what was seen be usual.

        Args:
            time: As in :meth:`see`.
            slope: The profile is known well enough to learn what the load does.
        """
        if self.residual is None:
            return
        limit = _CLIP * sqrt(self.white + self.noise.variance)
        self._latency.learn(time, self._seen - self._slope.effect, limit)
        self.noise.add(max(-limit, min(limit, self.residual)))
        if slope:
            self._slope.learn(self._raw)

    def renormalise(self, by: float) -> None:
        """Move what is usual per token, because latencies are normalised otherwise from now on."""
        if by:
            self._per_token.move(by)

    def accept(self, by: float | None = None) -> None:
        """Take what has been wrong for long for usual.

        Args:
            by: The part that all models share; what the tests see in this series, if None.
        """
        self._latency.move(max(self.shift.level, self.drift.drift) if by is None else by)
        self.shift.forget()
        self.drift.forget()

    def follow_load(self, time: float, count: int, *, learn: bool) -> None:
        """Take the traffic of the tick.

        Args:
            time: Seconds; the time of day counts.
            count: Requests that ended.
            learn: Nothing is wrong with the traffic.
        """
        if not count:
            return
        seen = log(count)
        level = self._load.at(time)
        self._slope.follow(0.0 if level is None else seen - level)
        if learn:
            self._load.learn(time, seen, _LOAD_MOST)

    def state(self) -> dict[str, Any]:
        """What was learned, for a file."""
        return {
            "per_request": self._per_request.state(),
            "per_token": self._per_token.state(),
            "load": self._load.state(),
            "slope": self._slope.state(),
            "noise": self.noise.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        self._per_request.restore(state["per_request"])
        self._per_token.restore(state["per_token"])
        self._load.restore(state["load"])
        self._slope.restore(state["slope"])
        self.noise.restore(state["noise"])
