"""All models of a process: which of them, or all together, got slower, fail, or lack traffic."""

from __future__ import annotations

from math import exp, inf
from typing import TYPE_CHECKING, Any

from otel_aimon.analysis.all_models import AllModels
from otel_aimon.analysis.daily_profile import DAY_SECONDS
from otel_aimon.analysis.error_ratio import WINDOW_SECONDS
from otel_aimon.analysis.evidence import Evidence, Identity
from otel_aimon.analysis.imbalance import imbalances
from otel_aimon.analysis.one_model import OneModel
from otel_aimon.analysis.suspicion import ERRORS
from otel_aimon.analysis.tick import TICK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_aimon.analysis.tick import Tick

LEARNING_SECONDS = DAY_SECONDS
"""Until then nothing is known to be unusual."""

MAX_SERIES = 128
"""When there are as many, a new one takes the place of the one that has been idle the longest ..."""

IDLE_SECONDS = DAY_SECONDS
"""... for so long at the least."""


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
        self._series: dict[Identity, OneModel] = {}
        self._together = AllModels(tick_seconds)

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

    def _of(self, identity: Identity, time: float) -> OneModel | None:
        series = self._series.get(identity)
        if series is None:
            if len(self._series) >= MAX_SERIES and not self._make_room(time):
                return None
            series = self._series[identity] = OneModel(identity, self._tick_seconds, time)
        series.seen = time
        return series

    def _make_room(self, time: float) -> bool:
        idle = min(self._series.values(), key=lambda series: series.seen)
        if time - idle.seen < IDLE_SECONDS:
            return False
        del self._series[idle.identity]
        return True

    def _judge(self, time: float, present: list[tuple[OneModel, Tick]], known: bool) -> None:
        together = self._together
        for model, tick in present:
            model.latency.see(time, tick)
        together.judge_latency([model.latency for model, _ in present])
        together.judge_errors(present, known=known)
        common, all_fail = together.common, together.error_score >= ERRORS
        for model, tick in present:
            model.judge(time, tick, common, known=known)
            if all_fail:
                # That one of them fails too is no news, and would be no news when the others have stopped.
                model.errors.score = 0.0
        calm = not known or not together.traffic_is_wrong
        together.traffic.add(time, sum(tick.count for _, tick in present), learn=calm)
        for model, tick in present:
            model.latency.follow_load(time, tick.count, learn=calm)

    def _learn(self, time: float, present: list[tuple[OneModel, Tick]], known: bool) -> None:
        if known and self._together.is_wrong:
            return
        for model, tick in present:
            model.learn(time, tick, known=known)
        self._together.learn()

    def _accept(self, time: float, present: list[tuple[OneModel, Tick]]) -> None:
        self._together.accept(time, [model for model, _ in present])
        for model, _ in present:
            model.accept(time)

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

    def _evidence(self, present: list[tuple[OneModel, Tick]]) -> Iterator[Evidence]:
        yield from self._together.evidence(present, self._tick_seconds)
        for model, tick in present:
            yield from model.evidence(tick)
        yield from _imbalances([model for model, _ in present if model.latency.residual is not None])

    def state(self, time: float) -> dict[str, Any]:
        """What was learned, as plain data for a file.

        Args:
            time: As in :meth:`tick`.
        """
        return {
            "tick_seconds": self._tick_seconds,
            "learned_seconds": 0.0 if self._born is None else time - self._born,
            "together": self._together.state(),
            "series": [series.state() for series in self._series.values()],
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
        together = AllModels(self._tick_seconds)
        together.restore(state["together"])
        found: dict[Identity, OneModel] = {}
        for each in state["series"][:MAX_SERIES]:
            identity: Identity = tuple((str(key), str(value)) for key, value in each["identity"])
            series = found[identity] = OneModel(identity, self._tick_seconds, time)
            series.restore(each)
        self._together, self._series = together, found
        self._born = time - learned


def _imbalances(models: list[OneModel]) -> Iterator[Evidence]:
    for place, ratio in imbalances([model.recent for model in models]).items():
        model = models[place]
        usual = model.latency.usual
        if usual is not None:
            value = usual * exp(model.recent.level)
            yield Evidence("model.imbalance", model.identity, ratio, value=value, baseline=usual)
