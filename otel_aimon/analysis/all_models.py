"""All models of a process together: whether more than one got slower or fails, and whether traffic is lost."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING, Any

from otel_aimon.analysis.autoregression import Autoregression
from otel_aimon.analysis.daily_profile import DailyProfile
from otel_aimon.analysis.error_shift import ErrorShift
from otel_aimon.analysis.evidence import Evidence, Identity
from otel_aimon.analysis.lasting import Lasting
from otel_aimon.analysis.level_shift import LevelShift
from otel_aimon.analysis.one_model import OneModel, latency_evidence
from otel_aimon.analysis.recovery import Recovery
from otel_aimon.analysis.shared import Shared
from otel_aimon.analysis.slow_drift import SlowDrift
from otel_aimon.analysis.suspicion import ERRORS, QUIET_TICKS, TRAFFIC, add_errors, quiet_ticks
from otel_aimon.analysis.traffic_level import TrafficLevel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.analysis.latency_watch import LatencyWatch
    from otel_aimon.analysis.tick import Tick

    Present = list[tuple[OneModel, Tick]]

EVERYBODY: Identity = ()

OTHERS_FAIL = 3.0
"""Score of the errors of all models but the worst, from which it is not that one alone that fails."""

_CLIP = 3.0


class AllModels:
    """All models as one: their residuals, weighted by how well each is known.

    Attributes:
        errors: The test for more errors than usual.
        traffic: The tests for less traffic than usual, and for more.
        quiet: Ticks since the latency of all was last suspicious.
    """

    __slots__ = (
        "_drift", "_errors_last", "_errors_of_others", "_lasting", "_noise", "_recovery", "_residual", "_shared",
        "_shift", "_traffic_lasts", "_white", "errors", "quiet", "traffic",
    )  # fmt: skip

    def __init__(self, tick_seconds: float) -> None:
        self._noise = Autoregression(tick_seconds)
        self._shift = LevelShift()
        self._drift = SlowDrift()
        self._recovery = Recovery()
        self._shared = Shared()
        self.errors = ErrorShift()
        self._errors_of_others = ErrorShift()
        self.traffic = TrafficLevel(DailyProfile(tick_seconds))
        self.quiet = QUIET_TICKS
        self._lasting, self._errors_last, self._traffic_lasts = Lasting(), Lasting(), Lasting()
        self._residual: float | None = None
        self._white = 0.0

    def judge_latency(self, watches: list[LatencyWatch]) -> None:
        """Let the tests take the residuals of all models."""
        self._see(watches)
        if self._residual is not None:
            self._shift.add(self._residual, self._white, self._noise.rho, self._noise.variance)
            self._drift.add(self._residual, self._white, self._noise)
            self._recovery.add(self._residual, self._white, self._noise, self._shift, self._drift)
            self.quiet = quiet_ticks(self.quiet, self._shift, self._drift)

    def _see(self, watches: list[LatencyWatch]) -> None:
        known = [(each, each.residual) for each in watches if each.residual is not None]
        weights = [1.0 / (watch.white + watch.noise.variance) for watch, _ in known]
        total = sum(weights)
        self._shared.add([(w, residual) for w, (_, residual) in zip(weights, known, strict=True)])
        if not known:
            self._residual = None
            return
        self._residual = sum(w * residual for w, (_, residual) in zip(weights, known, strict=True)) / total
        self._white = (
            sum(w * w * watch.white for w, (watch, _) in zip(weights, known, strict=True)) / total**2
        )

    @property
    def common(self) -> float:
        """The part of the residuals that all models share while something is wrong with all."""
        wrong = self.is_wrong and (self._shared.shift or self._shared.drift)
        return self._residual if wrong and self._residual is not None else 0.0

    def judge_errors(self, present: Present, *, known: bool) -> None:
        """Let the tests take the errors of all models."""
        count, errors = sum(tick.count for _, tick in present), sum(tick.errors for _, tick in present)
        add_errors(self.errors, count, errors, known=known)
        if len(present) < 2:
            self._errors_of_others.score = 0.0
        else:
            _, worst = max(present, key=lambda pair: pair[0].errors.score)
            self._errors_of_others.usual = self.errors.usual
            self._errors_of_others.add(
                count - worst.count, errors - worst.errors, learn=False, cautious=known
            )

    @property
    def error_score(self) -> float:
        """Of all models; 0 when it is one that fails."""
        return self.errors.score if self._errors_of_others.score >= OTHERS_FAIL else 0.0

    @property
    def is_wrong(self) -> bool:
        """Whether latency of all is suspicious, or was just now."""
        return self.quiet < QUIET_TICKS

    @property
    def traffic_is_wrong(self) -> bool:
        """Whether the traffic is suspicious."""
        return max(self.traffic.drop, self.traffic.surge) >= TRAFFIC

    def learn(self) -> None:
        """Let the noise that was seen be usual."""
        if self._residual is not None:
            limit = _CLIP * sqrt(self._white + self._noise.variance)
            self._noise.add(max(-limit, min(limit, self._residual)))

    def accept(self, time: float, models: list[OneModel]) -> None:
        """Take for usual what has been wrong with all for half a day."""
        if self._lasting.is_usual_now(time, wrong=self.is_wrong):
            for model in models:
                model.latency.accept(max(self._shift.level, self._drift.drift))
            self._shift.forget()
            self._drift.forget()
        if self._errors_last.is_usual_now(time, wrong=self.errors.score >= ERRORS):
            for test in (self.errors, *(model.errors for model in models)):
                test.accept()
        if self._traffic_lasts.is_usual_now(time, wrong=self.traffic_is_wrong):
            self.traffic.accept()

    def evidence(self, present: Present, tick_seconds: float) -> Iterator[Evidence]:
        """Evidence about the process: what more than one model shares, and the traffic."""
        usual = _usual_of_all(present)
        for each in latency_evidence(EVERYBODY, self._shift, self._drift, self._residual, usual):
            shared = self._shared.shift if each.rule == "latency.shift" else self._shared.drift
            yield each if shared else replace(each, score=0.0)
        count, errors = sum(tick.count for _, tick in present), sum(tick.errors for _, tick in present)
        yield Evidence(
            "error.shift",
            EVERYBODY,
            self.error_score,
            value=errors / count if count else None,
            baseline=self.errors.usual,
            samples=count,
        )
        traffic = self.traffic
        if traffic.usual is not None:
            rate, baseline = count / tick_seconds, traffic.usual / tick_seconds
            for rule, score in (("traffic.drop", traffic.drop), ("traffic.surge", traffic.surge)):
                yield Evidence(rule, EVERYBODY, score, value=rate, baseline=baseline, samples=count)

    def state(self) -> dict[str, Any]:
        """What was learned, for a file."""
        return {
            "noise": self._noise.state(),
            "errors": self.errors.state(),
            "traffic": self.traffic.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        self._noise.restore(state["noise"])
        self.errors.restore(state["errors"])
        self.traffic.restore(state["traffic"])


def _usual_of_all(present: Present) -> float | None:
    """The mean of what is usual, over the requests that ended."""
    known = [(usual, tick.count) for model, tick in present if (usual := model.latency.usual) is not None]
    count = sum(each for _, each in known)
    return sum(usual * each for usual, each in known) / count if count else None
