"""The metric points of hints and limiters: what is known when metrics are collected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from otel_aimon import semconv
from otel_aimon.hinting.limiter import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from otel_aimon.hinting.concurrency import ConcurrencyHint
    from otel_aimon.hinting.least_squares import Line
    from otel_aimon.hinting.limiter import Limiter
    from otel_aimon.hinting.model_load import ModelLoad
    from otel_aimon.hinting.watch import HintWatch
    from otel_aimon.semconv import Metric

    Points = Callable[[HintWatch], Iterable[Observation]]
    Read = Callable[[ModelLoad], float | None]


def _of_hint(read: Callable[[ConcurrencyHint], float | None]) -> Read:
    return lambda load: None if load.hint is None else read(load.hint)


def _of_line(read: Callable[[Line], float]) -> Read:
    def value(load: ModelLoad) -> float | None:
        line = load.advisor.estimator.tpot_line.line()
        return None if line is None else read(line)

    return value


_OF_MODELS: tuple[tuple[Metric, Read], ...] = (
    (semconv.CONCURRENCY_IN_FLIGHT, lambda load: load.in_flight),
    (semconv.HINT_CONCURRENCY_LIMIT, _of_hint(lambda hint: hint.limit)),
    (semconv.HINT_CONCURRENCY_UTILIZATION, lambda load: load.utilization),
    (semconv.HINT_CONCURRENCY_CONFIDENCE, _of_hint(lambda hint: hint.confidence.value)),
    (semconv.HINT_KV_TOKENS_LIMIT, _of_hint(lambda hint: hint.kv_tokens)),
    (semconv.HINT_REPLICAS_RATIO, lambda load: load.scaling.ratio),
    (semconv.MODEL_TPOT_INTERCEPT, _of_line(lambda line: line.intercept)),
    (semconv.MODEL_TPOT_SLOPE, _of_line(lambda line: line.slope)),
    (semconv.MODEL_KV_TOKENS, lambda load: load.advisor.kv_tokens_per_request),
)


def _models(read: Read) -> Points:
    def observations(watch: HintWatch) -> Iterator[Observation]:
        for model, load in list(watch.models.items()):
            value = read(load)
            if value is not None:
                yield Observation(value, {semconv.AIMON_MODEL_NAME: model})

    return observations


def _batches(watch: HintWatch) -> Iterator[Observation]:
    for series, batch in list(watch.batches.items()):
        if batch.size is not None:
            yield Observation(batch.size, series.attributes)


def _bottleneck(watch: HintWatch) -> Iterator[Observation]:
    bottleneck = watch.resource.bottleneck
    if bottleneck is not None:
        yield Observation(bottleneck.confidence, {semconv.HINT_BOTTLENECK: bottleneck.name})


def _attributes(limiter: Limiter) -> dict[str, str]:
    return {semconv.AIMON_MODEL_NAME: limiter.model, semconv.LIMITER_MODE: limiter.mode.value}


def _working(watch: HintWatch) -> list[Limiter]:
    return [limiter for limiter in watch.limiters.all() if limiter.mode is not Mode.OFF]


def _limiters(read: Callable[[Limiter], float]) -> Points:
    def observations(watch: HintWatch) -> Iterator[Observation]:
        for limiter in _working(watch):
            yield Observation(read(limiter), _attributes(limiter))

    return observations


def _limited_requests(watch: HintWatch) -> Iterator[Observation]:
    for limiter in _working(watch):
        for outcome, count in (("admitted", limiter.admitted), ("shed", limiter.shed)):
            yield Observation(count, {**_attributes(limiter), semconv.LIMITER_OUTCOME: outcome})


POINTS: dict[str, Points] = {
    **{metric.name: _models(read) for metric, read in _OF_MODELS},
    semconv.HINT_BATCH_SIZE.name: _batches,
    semconv.HINT_BOTTLENECK_CONFIDENCE.name: _bottleneck,
    semconv.LIMITER_LIMIT.name: _limiters(lambda limiter: limiter.limit),
    semconv.LIMITER_ACTIVE.name: _limiters(lambda limiter: limiter.in_flight),
    semconv.LIMITER_REQUESTS.name: _limited_requests,
}
"""By the metric's name."""
