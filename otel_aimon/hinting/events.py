"""A hint as it leaves the process when it changes: one log record named ``aimon.hint``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from otel_aimon import semconv

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry._logs import Logger

    from otel_aimon.analysis.bottleneck import Bottleneck
    from otel_aimon.core.series import Series
    from otel_aimon.hinting.batches import BatchLoad
    from otel_aimon.hinting.model_load import ModelLoad

VALID_SECONDS = 3600.0
"""For so long a hint may be relied upon."""

TOLD_AGAIN = VALID_SECONDS / 2
"""Seconds after which one that has not changed is told again, so that there is always one that is valid."""


@dataclass(frozen=True, slots=True)
class HintEvent:
    """One event.

    Attributes:
        body: One sentence for people.
        attributes: Everything for programs, as in docs/hints.md.
    """

    body: str
    attributes: dict[str, Any]


def concurrency_event(model: str, load: ModelLoad, old: float | None) -> HintEvent | None:
    """What to tell of a model's limit; None without one."""
    hint, interval = load.hint, load.interval
    if hint is None or interval is None:
        return None
    line = load.advisor.estimator.tpot_line.line()
    evidence = {
        "in_flight": interval.in_flight,
        "throughput": interval.throughput,
        "utilization": interval.utilization,
        "kv_utilization": interval.kv_utilization,
        "tpot.intercept": line and line.intercept,
        "tpot.slope": line and line.slope,
        "tpot.noise": line and line.noise,
    }
    at_least = "at least " if hint.lower_bound else ""
    before = "" if old is None else f" (before: {old:.3g})"
    attributes = {
        semconv.AIMON_MODEL_NAME: model,
        semconv.HINT_KIND: "concurrency",
        semconv.HINT_OLD: old,
        semconv.HINT_NEW: hint.limit,
        semconv.HINT_BASIS: hint.basis,
        semconv.HINT_CONFIDENCE: hint.confidence.value,
        semconv.HINT_LOWER_BOUND: hint.lower_bound,
        semconv.HINT_KV_TOKENS: hint.kv_tokens,
        **{semconv.HINT_BOUND + bound.basis: bound.limit for bound in hint.bounds},
        **{semconv.HINT_EVIDENCE + name: value for name, value in evidence.items()},
    }
    body = (
        f"{model} can serve {at_least}{_requests(hint.limit)} at once{before}: {hint.basis} binds."
        if load.advisor.bounded
        else f"{model} served {_requests(hint.limit)} at once with none waiting; its limit is not known yet."
    )
    return HintEvent(body, _known(attributes))


def batch_event(series: Series, load: BatchLoad, old: float | None) -> HintEvent | None:
    """What to tell of the batch size of an operation; None without a hint."""
    hint, size = load.hint, load.size
    if hint is None or size is None:
        return None
    attributes = {
        **series.attributes,
        semconv.HINT_KIND: "batch",
        semconv.HINT_OLD: old,
        semconv.HINT_NEW: size,
        semconv.HINT_BASIS: hint.basis,
        semconv.HINT_LONGEST_WAIT: hint.longest_wait,
        **{semconv.HINT_BOUND + bound.basis: bound.limit for bound in hint.bounds},
    }
    return HintEvent(
        f"Batches of {size:.3g} items pay for {series.operation} of {series.model}: {hint.basis} binds.",
        _known(attributes),
    )


def scaling_event(model: str, load: ModelLoad, old: float | None) -> HintEvent | None:
    """What to tell of the number of replicas; None when nothing is known."""
    ratio = load.scaling.ratio
    if ratio is None:
        return None
    attributes = {
        semconv.AIMON_MODEL_NAME: model,
        semconv.HINT_KIND: "scaling",
        semconv.HINT_OLD: old,
        semconv.HINT_NEW: ratio,
        semconv.HINT_BASIS: "concurrency",
        semconv.HINT_CONFIDENCE: load.hint and load.hint.confidence.value,
        semconv.HINT_EVIDENCE + "utilization": load.utilization,
    }
    return HintEvent(
        f"The load of {model} needs {ratio:.3g} times the replicas that there are.", _known(attributes)
    )


def resource_event(bottleneck: Bottleneck | None, old: str | None) -> HintEvent:
    """What to tell of the resource that binds."""
    attributes = {
        semconv.HINT_KIND: "resource",
        semconv.HINT_BOTTLENECK: "none" if bottleneck is None else bottleneck.name,
        semconv.HINT_PREVIOUS_BOTTLENECK: old,
        semconv.HINT_CONFIDENCE: bottleneck and bottleneck.confidence,
    }
    body = (
        "No resource that is watched binds any more."
        if bottleneck is None
        else f"What binds is {bottleneck.name}. {bottleneck.advice}"
    )
    return HintEvent(body, _known(attributes))


def _requests(number: float) -> str:
    return f"{number:.3g} request{'' if f'{number:.3g}' == '1' else 's'}"


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def emit_to(logger: Logger, wall: Callable[[], float]) -> Callable[[HintEvent], None]:
    """A function that emits events as log records.

    Args:
        logger: Of our scope.
        wall: Seconds since 1970.
    """

    def emit(event: HintEvent) -> None:
        now = wall()
        logger.emit(
            timestamp=int(now * 1e9),
            observed_timestamp=int(now * 1e9),
            # A hint is about no request: not the span that happens to be current on this thread.
            context=set_span_in_context(INVALID_SPAN, Context()),
            severity_number=SeverityNumber.INFO,
            severity_text="INFO",
            body=event.body,
            attributes={**event.attributes, semconv.HINT_VALID_UNTIL: int((now + VALID_SECONDS) * 1e9)},
            event_name=semconv.HINT_EVENT,
        )

    return emit
