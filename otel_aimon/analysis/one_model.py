"""One model of a process: whether it got slower, fails, or is asked for something else."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Any

from otel_aimon.analysis.error_ratio import ErrorRatio
from otel_aimon.analysis.error_shift import ErrorShift
from otel_aimon.analysis.evidence import Evidence, Identity
from otel_aimon.analysis.imbalance import RecentMean
from otel_aimon.analysis.lasting import Lasting
from otel_aimon.analysis.latency_spike import LatencySpike
from otel_aimon.analysis.latency_watch import LatencyWatch
from otel_aimon.analysis.suspicion import ERRORS, QUIET_TICKS, add_errors, quiet_ticks
from otel_aimon.analysis.token_overhead import TokenOverhead
from otel_aimon.analysis.workload_shift import WorkloadShift

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.analysis.level_shift import LevelShift
    from otel_aimon.analysis.slow_drift import SlowDrift
    from otel_aimon.analysis.tick import Tick


class OneModel:
    """What is known of one model, or of one operation of it.

    Attributes:
        identity: What its alerts are about.
        seen: When it had its last requests.
        latency: What is usual, and the tests for a step and a creep.
        recent: The residual of the last minute.
        spike: The test for extreme ticks.
        errors: The test for more errors than usual.
        ratio: The errors of the last minutes.
        workload: The test for requests of another size.
        overhead: What a request costs beside its tokens.
        quiet: Ticks since its latency was last suspicious.
    """

    __slots__ = (
        "_errors_last",
        "_lasting",
        "errors",
        "identity",
        "latency",
        "overhead",
        "quiet",
        "ratio",
        "recent",
        "seen",
        "spike",
        "workload",
    )

    def __init__(self, identity: Identity, tick_seconds: float, time: float) -> None:
        self.identity = identity
        self.seen = time
        self.latency = LatencyWatch(tick_seconds)
        self.recent = RecentMean()
        self.spike = LatencySpike()
        self.errors = ErrorShift()
        self.ratio = ErrorRatio(tick_seconds)
        self.workload = WorkloadShift(tick_seconds)
        self.overhead = TokenOverhead(tick_seconds)
        self.quiet = QUIET_TICKS
        self._lasting, self._errors_last = Lasting(), Lasting()

    def judge(self, time: float, tick: Tick, common: float, *, known: bool) -> None:
        """Let all tests take what the tick showed.

        Args:
            time: Seconds; the time of day counts.
            tick: What ended.
            common: The part of the latency's residual that all models share.
            known: It is known what is usual.
        """
        watch = self.latency
        watch.judge(common)
        self.quiet = quiet_ticks(self.quiet, watch.shift, watch.drift)
        if watch.residual is not None:
            self.recent.add(watch.residual, watch.white, watch.noise)
            self.spike.add(watch.residual, watch.white, watch.noise)
        if tick.tokens is not None:
            self.workload.add(time, tick.tokens, cautious=known)
        add_errors(self.errors, tick.count, tick.errors, known=known)

    def accept(self, time: float) -> None:
        """Take for usual what has been wrong for half a day."""
        if self._lasting.is_usual_now(time, wrong=self.quiet < QUIET_TICKS):
            self.latency.accept()
        if self._errors_last.is_usual_now(time, wrong=self.errors.score >= ERRORS):
            self.errors.accept()

    def learn(self, time: float, tick: Tick, *, known: bool) -> None:
        """Let what the tick showed be usual, unless it is suspicious."""
        if known and self.quiet < QUIET_TICKS:
            return
        self.latency.learn(time, slope=known)
        if tick.moments is not None:
            self.latency.renormalise(self.overhead.learn(tick.moments))

    def evidence(self, tick: Tick) -> Iterator[Evidence]:
        """Evidence for every rule that is about one model alone."""
        watch, who = self.latency, self.identity
        yield from latency_evidence(who, watch.shift, watch.drift, watch.residual, watch.usual)
        ratio = tick.errors / tick.count if tick.count else None
        yield Evidence(
            "error.shift",
            who,
            self.errors.score,
            value=ratio,
            baseline=self.errors.usual,
            samples=tick.count,
        )
        if watch.residual is not None and watch.usual is not None:
            value, succeeded = watch.usual * exp(watch.residual), tick.count - tick.errors
            yield Evidence(
                "latency.spike", who, self.spike.score, value=value, baseline=watch.usual, samples=succeeded
            )
        if tick.tokens is not None and self.workload.usual is not None:
            yield Evidence(
                "workload.shift",
                who,
                self.workload.score,
                value=tick.tokens,
                baseline=self.workload.usual,
                samples=tick.count,
            )

    def state(self) -> dict[str, Any]:
        """What was learned, for a file."""
        return {
            "identity": [list(pair) for pair in self.identity],
            "latency": self.latency.state(),
            "errors": self.errors.state(),
            "workload": self.workload.state(),
            "overhead": self.overhead.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        self.latency.restore(state["latency"])
        self.errors.restore(state["errors"])
        self.workload.restore(state["workload"])
        self.overhead.restore(state["overhead"])


def latency_evidence(
    identity: Identity, shift: LevelShift, drift: SlowDrift, residual: float | None, usual: float | None
) -> Iterator[Evidence]:
    """Evidence for ``latency.shift`` and ``latency.drift``; none for a tick without latency."""
    if residual is None or usual is None:
        return
    for rule, score, size in (
        ("latency.shift", shift.score, shift.level),
        ("latency.drift", drift.score, drift.drift),
    ):
        yield Evidence(rule, identity, score, value=usual * exp(size), baseline=usual)
