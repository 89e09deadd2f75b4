"""All models of a process: which of them, or all together, got slower, fail, or lack traffic."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, sqrt
from typing import TYPE_CHECKING, Any

from otel_aimon.analysis.autoregression import Autoregression
from otel_aimon.analysis.daily_profile import DAY_SECONDS, DailyProfile
from otel_aimon.analysis.error_ratio import WINDOW_SECONDS, ErrorRatio
from otel_aimon.analysis.error_shift import ErrorShift
from otel_aimon.analysis.evidence import Evidence, Identity
from otel_aimon.analysis.imbalance import RecentMean, imbalances
from otel_aimon.analysis.lasting import Lasting
from otel_aimon.analysis.latency_spike import LatencySpike
from otel_aimon.analysis.latency_watch import LatencyWatch
from otel_aimon.analysis.level_shift import LevelShift
from otel_aimon.analysis.recovery import Recovery
from otel_aimon.analysis.shared import Shared
from otel_aimon.analysis.slow_drift import SlowDrift
from otel_aimon.analysis.tick import TICK_SECONDS
from otel_aimon.analysis.token_overhead import TokenOverhead
from otel_aimon.analysis.traffic_level import TrafficLevel
from otel_aimon.analysis.workload_shift import WorkloadShift

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_aimon.analysis.tick import Tick

LEARNING_SECONDS = DAY_SECONDS
"""Until then nothing is known to be unusual."""

SUSPICIOUS = {"shift": 14.0, "drift": 0.9, "error": 3.0, "traffic": 5.0}
"""From these scores on nothing is learned: what is wrong must not become usual."""

QUIET_TICKS = 12
"""Learning goes on so many ticks after the last suspicion."""

MAX_SERIES = 128
"""When there are as many, a new one takes the place of the one that has been idle the longest ..."""

IDLE_SECONDS = DAY_SECONDS
"""... for so long at the least."""

_OTHERS_FAIL = 3.0
"""Score of the errors of all models but the worst, from which it is not that one alone that fails."""

_CLIP = 3.0
_EVERYBODY: Identity = ()


class _Series:
    """What is known of one model."""

    __slots__ = (
        "errors",
        "errors_last",
        "identity",
        "lasting",
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
        self.lasting, self.errors_last = Lasting(), Lasting()

    def add_errors(self, tick: Tick, known: bool) -> None:
        _add_errors(self.errors, tick.count, tick.errors, known)

    def compare(self) -> None:
        """Compare the residual with the noise, and remember it to compare it with that of other models."""
        watch = self.latency
        if watch.residual is not None:
            self.recent.add(watch.residual, watch.white, watch.noise)
            self.spike.add(watch.residual, watch.white, watch.noise)

    def learn_overhead(self, tick: Tick) -> None:
        if tick.moments is not None:
            self.latency.renormalise(self.overhead.learn(tick.moments))

    def follow_size(self, time: float, tick: Tick, known: bool) -> None:
        if tick.tokens is not None:
            self.workload.add(time, tick.tokens, cautious=known)


class _Together:
    """All models as one: their residuals, weighted by how well each is known."""

    __slots__ = (
        "_recovery", "drift", "errors", "errors_last", "errors_of_others", "lasting", "noise", "quiet", "residual",
        "shared", "shift", "traffic", "traffic_lasts", "white",
    )  # fmt: skip

    def __init__(self, tick_seconds: float) -> None:
        self.noise = Autoregression(tick_seconds)
        self.shift = LevelShift()
        self.drift = SlowDrift()
        self._recovery = Recovery()
        self.shared = Shared()
        self.errors = ErrorShift()
        self.errors_of_others = ErrorShift()
        self.traffic = TrafficLevel(DailyProfile(tick_seconds))
        self.quiet = QUIET_TICKS
        self.lasting, self.errors_last, self.traffic_lasts = Lasting(), Lasting(), Lasting()
        self.residual: float | None = None
        self.white = 0.0

    def see(self, watches: list[LatencyWatch]) -> None:
        known = [(each, each.residual) for each in watches if each.residual is not None]
        weights = [1.0 / (watch.white + watch.noise.variance) for watch, _ in known]
        total = sum(weights)
        self.shared.add([(w, residual) for w, (_, residual) in zip(weights, known, strict=True)])
        if not known:
            self.residual = None
            return
        self.residual = sum(w * residual for w, (_, residual) in zip(weights, known, strict=True)) / total
        self.white = sum(w * w * watch.white for w, (watch, _) in zip(weights, known, strict=True)) / total**2

    def judge(self) -> None:
        if self.residual is not None:
            self.shift.add(self.residual, self.white, self.noise.rho, self.noise.variance)
            self.drift.add(self.residual, self.white, self.noise)
            self._recovery.add(self.residual, self.white, self.noise, self.shift, self.drift)
            self.quiet = _quiet(self.quiet, self.shift, self.drift)

    @property
    def common(self) -> float:
        """The part of the residuals that all models share while something is wrong with all."""
        wrong = self.quiet < QUIET_TICKS and (self.shared.shift or self.shared.drift)
        return self.residual if wrong and self.residual is not None else 0.0

    def add_errors(self, present: list[tuple[_Series, Tick]], known: bool) -> None:
        count, errors = sum(tick.count for _, tick in present), sum(tick.errors for _, tick in present)
        _add_errors(self.errors, count, errors, known)
        if len(present) > 1:
            _, worst = max(present, key=lambda pair: pair[0].errors.score)
            self.errors_of_others.usual = self.errors.usual
            self.errors_of_others.add(count - worst.count, errors - worst.errors, learn=False, cautious=known)

    @property
    def error_score(self) -> float:
        """Of all models; 0 when it is one that fails."""
        return self.errors.score if self.errors_of_others.score >= _OTHERS_FAIL else 0.0

    def learn(self) -> None:
        if self.residual is not None:
            limit = _CLIP * sqrt(self.white + self.noise.variance)
            self.noise.add(max(-limit, min(limit, self.residual)))


class Degradation:
    """Takes a tick of every model, and says what is unusual.

    Args:
        tick_seconds: Time between two ticks.
        learning: Seconds before it says anything.
    """

    def __init__(self, tick_seconds: float = TICK_SECONDS, learning: float = LEARNING_SECONDS) -> None:
        self._tick_seconds = tick_seconds
        self._learning = learning
        self._born: float | None = None
        self._series: dict[Identity, _Series] = {}
        self._together = _Together(tick_seconds)

    def tick(self, time: float, ticks: Mapping[Identity, Tick]) -> list[Evidence]:
        """Take what ended in the last tick.

        Args:
            time: Seconds since some midnight (UTC will do): the time of day counts.
            ticks: By what they are about: a model, or an operation of it; one without requests may be left out.

        Returns:
            Evidence for ``error.ratio``, and, unless it still learns, for ``latency.shift``,
            ``latency.drift``, ``latency.spike``, ``error.shift``, ``model.imbalance``, ``workload.shift``, ``traffic.drop``
            and ``traffic.surge``: for each model, for all together, or for both.
        """
        if self._born is None:
            self._born = time
        age = time - self._born
        known = age >= self._learning
        found = ((self._of(who, time), tick) for who, tick in ticks.items())
        present = [(series, tick) for series, tick in found if series is not None]
        self._judge(time, present, known)
        if known:
            self._accept(time, present)
        self._learn(time, present, known)
        evidence = list(self._ratios(ticks))
        if known:
            evidence += self._evidence(present)
        return evidence

    def overhead(self, identity: Identity) -> float:
        """What a request of a model costs beside its tokens, in tokens, as far as it is known.

        Args:
            identity: As in :meth:`tick`, whose latencies per token are to be normalised by it.
        """
        series = self._series.get(identity)
        return series.overhead.tokens if series is not None else 0.0

    def _of(self, identity: Identity, time: float) -> _Series | None:
        series = self._series.get(identity)
        if series is None:
            if len(self._series) >= MAX_SERIES and not self._make_room(time):
                return None
            series = self._series[identity] = _Series(identity, self._tick_seconds, time)
        series.seen = time
        return series

    def _make_room(self, time: float) -> bool:
        idle = min(self._series.values(), key=lambda series: series.seen)
        if time - idle.seen < IDLE_SECONDS:
            return False
        del self._series[idle.identity]
        return True

    def _judge(self, time: float, present: list[tuple[_Series, Tick]], known: bool) -> None:
        together = self._together
        for series, tick in present:
            series.latency.see(time, tick)
        together.see([series.latency for series, _ in present])
        together.judge()
        common = together.common
        together.add_errors(present, known)
        all_fail = together.error_score >= SUSPICIOUS["error"]
        for series, tick in present:
            series.latency.judge(common)
            series.quiet = _quiet(series.quiet, series.latency.shift, series.latency.drift)
            series.compare()
            series.follow_size(time, tick, known)
            series.add_errors(tick, known)
            if all_fail:
                # That one of them fails too is no news, and would be no news when the others have stopped.
                series.errors.score = 0.0
        calm = not known or max(together.traffic.drop, together.traffic.surge) < SUSPICIOUS["traffic"]
        together.traffic.add(time, sum(tick.count for _, tick in present), learn=calm)
        for series, tick in present:
            series.latency.follow_load(time, tick.count, learn=calm)

    def _learn(self, time: float, present: list[tuple[_Series, Tick]], known: bool) -> None:
        together = self._together
        if known and together.quiet < QUIET_TICKS:
            return
        for series, tick in present:
            if series.quiet >= QUIET_TICKS or not known:
                series.latency.learn(time, slope=known)
                series.learn_overhead(tick)
        together.learn()

    def _accept(self, time: float, present: list[tuple[_Series, Tick]]) -> None:
        """Take for usual what has been wrong for half a day."""
        together = self._together
        if together.lasting.is_usual_now(time, wrong=together.quiet < QUIET_TICKS):
            for series, _ in present:
                series.latency.accept(max(together.shift.level, together.drift.drift))
            together.shift.forget()
            together.drift.forget()
        for series, _ in present:
            if series.lasting.is_usual_now(time, wrong=series.quiet < QUIET_TICKS):
                series.latency.accept()
            if series.errors_last.is_usual_now(time, wrong=series.errors.score >= SUSPICIOUS["error"]):
                series.errors.accept()
        if together.errors_last.is_usual_now(time, wrong=together.errors.score >= SUSPICIOUS["error"]):
            together.errors.accept()
            for series, _ in present:
                series.errors.accept()
        traffic = together.traffic
        if together.traffic_lasts.is_usual_now(
            time, wrong=max(traffic.drop, traffic.surge) >= SUSPICIOUS["traffic"]
        ):
            traffic.accept()

    def _ratios(self, ticks: Mapping[Identity, Tick]) -> Iterator[Evidence]:
        for identity, series in self._series.items():
            tick = ticks.get(identity)
            series.ratio.add(*((tick.count, tick.errors) if tick is not None else (0, 0)))
            ratio = series.ratio.ratio
            if ratio is not None:
                yield Evidence(
                    "error.ratio",
                    identity,
                    ratio,
                    value=ratio,
                    samples=series.ratio.count,
                    window=WINDOW_SECONDS,
                )

    def _evidence(self, present: list[tuple[_Series, Tick]]) -> Iterator[Evidence]:
        together = self._together
        for evidence in _latency_evidence(
            _EVERYBODY, together.shift, together.drift, together.residual, _usual_of_all(present)
        ):
            shared = together.shared.shift if evidence.rule == "latency.shift" else together.shared.drift
            yield evidence if shared else replace(evidence, score=0.0)
        count, errors = sum(tick.count for _, tick in present), sum(tick.errors for _, tick in present)
        yield Evidence(
            "error.shift",
            _EVERYBODY,
            together.error_score,
            value=errors / count if count else None,
            baseline=together.errors.usual,
            samples=count,
        )
        usual = together.traffic.usual
        if usual is not None:
            rate, baseline = count / self._tick_seconds, usual / self._tick_seconds
            for rule, score in (
                ("traffic.drop", together.traffic.drop),
                ("traffic.surge", together.traffic.surge),
            ):
                yield Evidence(rule, _EVERYBODY, score, value=rate, baseline=baseline, samples=count)
        for series, tick in present:
            watch = series.latency
            yield from _latency_evidence(
                series.identity, watch.shift, watch.drift, watch.residual, watch.usual
            )
            yield Evidence(
                "error.shift",
                series.identity,
                series.errors.score,
                value=tick.errors / tick.count if tick.count else None,
                baseline=series.errors.usual,
                samples=tick.count,
            )
            yield from _spike_evidence(series, tick)
            yield from _workload_evidence(series, tick)
        yield from _imbalance_evidence(
            [series for series, _ in present if series.latency.residual is not None]
        )

    def state(self, time: float) -> dict[str, Any]:
        """What was learned, as plain data for a file.

        Args:
            time: As in :meth:`tick`.
        """
        together = self._together
        return {
            "tick_seconds": self._tick_seconds,
            "learned_seconds": 0.0 if self._born is None else time - self._born,
            "together": {
                "noise": together.noise.state(),
                "errors": together.errors.state(),
                "traffic": together.traffic.state(),
            },
            "series": [
                {
                    "identity": [list(pair) for pair in series.identity],
                    "latency": series.latency.state(),
                    "errors": series.errors.state(),
                    "workload": series.workload.state(),
                    "overhead": series.overhead.state(),
                }
                for series in self._series.values()
            ],
        }

    def restore(self, state: dict[str, Any], time: float) -> None:
        """Go on from what another process learned.

        Args:
            state: Of :meth:`state`.
            time: As in :meth:`tick`.

        Raises:
            ValueError: It does not fit.
            KeyError: Something is missing.
            TypeError: Something is of another type.
        """
        if state["tick_seconds"] != self._tick_seconds:
            raise ValueError(f"it was learned with ticks of {state['tick_seconds']} s")
        learned = float(state["learned_seconds"])
        if not 0.0 <= learned < inf:
            raise ValueError("the time of learning is no time")
        together = _Together(self._tick_seconds)
        together.noise.restore(state["together"]["noise"])
        together.errors.restore(state["together"]["errors"])
        together.traffic.restore(state["together"]["traffic"])
        found: dict[Identity, _Series] = {}
        for each in state["series"][:MAX_SERIES]:
            identity: Identity = tuple((str(key), str(value)) for key, value in each["identity"])
            series = found[identity] = _Series(identity, self._tick_seconds, time)
            series.latency.restore(each["latency"])
            series.errors.restore(each["errors"])
            series.workload.restore(each["workload"])
            series.overhead.restore(each["overhead"])
        self._together, self._series = together, found
        self._born = time - learned


def _add_errors(test: ErrorShift, count: int, errors: int, known: bool) -> None:
    test.add(count, errors, learn=test.score < SUSPICIOUS["error"], cautious=known)


def _quiet(ticks: int, shift: LevelShift, drift: SlowDrift) -> int:
    suspicious = shift.score >= SUSPICIOUS["shift"] or drift.score >= SUSPICIOUS["drift"]
    return 0 if suspicious else ticks + 1


def _latency_evidence(
    identity: Identity, shift: LevelShift, drift: SlowDrift, residual: float | None, usual: float | None
) -> Iterator[Evidence]:
    if residual is None or usual is None:
        return
    for rule, score, size in (
        ("latency.shift", shift.score, shift.level),
        ("latency.drift", drift.score, drift.drift),
    ):
        yield Evidence(rule, identity, score, value=usual * exp(size), baseline=usual)


def _usual_of_all(present: list[tuple[_Series, Tick]]) -> float | None:
    """The mean of what is usual, over the requests that ended."""
    known = [(usual, tick.count) for series, tick in present if (usual := series.latency.usual) is not None]
    count = sum(each for _, each in known)
    return sum(usual * each for usual, each in known) / count if count else None


def _spike_evidence(series: _Series, tick: Tick) -> Iterator[Evidence]:
    watch = series.latency
    if watch.residual is not None and watch.usual is not None:
        value = watch.usual * exp(watch.residual)
        yield Evidence(
            "latency.spike",
            series.identity,
            series.spike.score,
            value=value,
            baseline=watch.usual,
            samples=tick.count - tick.errors,
        )


def _workload_evidence(series: _Series, tick: Tick) -> Iterator[Evidence]:
    if tick.tokens is None or series.workload.usual is None:
        return
    yield Evidence(
        "workload.shift",
        series.identity,
        series.workload.score,
        value=tick.tokens,
        baseline=series.workload.usual,
        samples=tick.count,
    )


def _imbalance_evidence(series: list[_Series]) -> Iterator[Evidence]:
    for place, ratio in imbalances([each.recent for each in series]).items():
        watch = series[place].latency
        if watch.usual is not None:
            usual = watch.usual
            value = usual * exp(series[place].recent.level)
            yield Evidence("model.imbalance", series[place].identity, ratio, value=value, baseline=usual)
