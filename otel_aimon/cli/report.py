"""What arrived, as text for people and as plain data for programs: a list of sections."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.cli.alert_report import alerts_section
from otel_aimon.cli.hint_report import hints_section
from otel_aimon.cli.load import CASES
from otel_aimon.cli.sections import Evidence, Report, Section
from otel_aimon.cli.text import WIDTH, cut, quantity, seconds, table, wrapped_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_aimon.cli.receiver import Point, Span

_FRAMEWORKS = {case.kind: case.framework for case in CASES}
_MODEL_KEYS = (
    (semconv.AIMON_FRAMEWORK, semconv.AIMON_OPERATION, semconv.AIMON_MODEL_NAME),
    (semconv.GEN_AI_PROVIDER_NAME, semconv.GEN_AI_OPERATION_NAME, semconv.GEN_AI_REQUEST_MODEL),
)
_SHOWN_BY_MODEL = frozenset(key for keys in _MODEL_KEYS for key in keys)
_ERROR_STATUS = 2
_LABEL = 68
"""The most that a label takes of a line, so that the numbers after it are seen."""

_MOST_EVENTS = 10


# --- sections ----------------------------------------------------------------------------------


def requests_section(evidence: Evidence) -> Section:
    """What the clients sent and saw."""
    data: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = [("requests", "sent", "completed", "failed", "abandoned", "p50", "p95")]
    for kind in _FRAMEWORKS:
        outcomes = [each for each in evidence.outcomes if each.case.kind == kind]
        endings = Counter(each.ending for each in outcomes)
        p50, p95 = _p50_p95([each.seconds for each in outcomes if each.ending == "completed"])
        data.append(
            {
                "kind": kind,
                "sent": len(outcomes),
                "completed": endings["completed"],
                "failed": endings["failed"],
                "abandoned": endings["abandoned"],
                "unanswered": endings["unanswered"],
                "p50_s": p50,
                "p95_s": p95,
            }
        )
        counted = (str(endings[each]) for each in ("completed", "failed", "abandoned"))
        rows.append((kind, str(len(outcomes)), *counted, seconds(p50), seconds(p95)))
    lines = table(rows, numbers_from=1)
    unanswered = sum(each["unanswered"] for each in data)
    if unanswered:
        lines.append(f"{unanswered} requests got no answer.")
    return Section("requests", "Sent by the clients", data, lines, ok=not unanswered)


def traces_section(evidence: Evidence) -> Section:
    """The spans of one request of each kind and ending."""
    spans = evidence.received.spans
    children: dict[str, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id, []).append(span)
    by_id = {span.span_id: span for span in spans}
    chosen: dict[tuple[str, str, str], Span] = {}
    for span in _requests(spans):
        chosen.setdefault((_framework(span), span.name, _ending(span)), span)
    trees = [_tree(_root(span, by_id), children) for _, span in sorted(chosen.items(), key=_by_kind)]
    rows = [row for tree in trees for row in _tree_rows(tree, 0)]
    lines = table([("span", "duration", "attributes"), *rows], numbers_from=1, numbers_to=2)
    return Section("traces", f"Traces: {len(spans)} spans; one request of each kind", trees, lines)


def metrics_section(evidence: Evidence) -> Section:
    """The latest point of every time series of ours."""
    latest = evidence.received.latest_points()
    points = [point for point in latest if point.scope == semconv.SCOPE]
    order = {metric.name: place for place, metric in enumerate(semconv.METRICS)}
    points.sort(key=lambda point: (order.get(point.metric, len(order)), _model(point), _others(point)))
    histograms = [point for point in points if point.count is not None]
    values = [point for point in points if point.count is None and point.value is not None]
    lines = [*_histogram_lines(histograms), "", *_value_lines(values)]
    others = len(latest) - len(points)
    if others:
        lines += ["", f"{others} more time series came from other instrumentations."]
    names = len({point.metric for point in points})
    title = f"Metrics: {names} metrics, {len(points)} time series; their latest points"
    return Section("metrics", title, [_point_data(point) for point in points], lines)


def events_section(evidence: Evidence) -> Section:
    """Log records and events, by name."""
    events = evidence.received.events
    data = [
        {
            "name": event.name,
            "severity": event.severity,
            "attributes": event.attributes,
            "trace_id": event.trace_id,
            "scope": event.scope,
        }
        for event in events
    ]
    counted = Counter(event.name or f"log record of {event.scope}" for event in events)
    traced = Counter(event.name or f"log record of {event.scope}" for event in events if event.trace_id)
    lines = [
        f"{name}: {number}, {traced[name]} of them in a trace"
        for name, number in counted.most_common(_MOST_EVENTS)
    ] or ["none"]
    return Section("events", f"Log events: {len(events)}", data, [cut(line, WIDTH - 2) for line in lines])


def verdict_section(evidence: Evidence) -> Section:
    """Whether everything that was sent arrived, once, with the right outcome and the right tokens."""
    requests = _request_checks(evidence)
    checks = [*requests, *_token_checks(evidence)]
    rows: list[tuple[str, ...]] = [("check", "clients", "spans", "metrics", "")]
    rows += [
        (
            check.what,
            *("-" if number is None else str(number) for number in check.numbers),
            "equal" if check.ok else "NOT EQUAL",
        )
        for check in checks
    ]
    sent = len(evidence.outcomes)
    spans, counted = (sum(check.numbers[column] or 0 for check in requests) for column in (1, 2))
    ok = all(check.ok for check in checks) and sent > 0
    verdict = (
        f"OK: {sent} requests sent = {spans} request spans = {counted} requests in the metrics."
        if ok
        else f"FAILED: {sent} requests sent, {spans} request spans, {counted} requests in the metrics."
    )
    data = {
        "ok": ok,
        "sent": sent,
        "spans": spans,
        "metrics": counted,
        "checks": [
            {"check": check.what, "ok": check.ok, **dict(zip(_SOURCES, check.numbers, strict=True))}
            for check in checks
        ],
    }
    lines = [*table(rows, numbers_from=1, numbers_to=4), "", verdict]
    return Section("verdict", "Is it all there?", data, lines, ok)


SECTIONS: tuple[Callable[[Evidence], Section], ...] = (
    requests_section,
    traces_section,
    metrics_section,
    events_section,
    alerts_section,
    hints_section,
    verdict_section,
)


def make(evidence: Evidence, sections: Iterable[Callable[[Evidence], Section]] = SECTIONS) -> Report:
    """The report of ``evidence``."""
    return Report([section(evidence) for section in sections])


# --- the verdict -------------------------------------------------------------------------------

_SOURCES = ("clients", "spans", "metrics")


@dataclass(frozen=True)
class _Check:
    """A number that clients, spans and metrics must agree on; None where one cannot know it."""

    what: str
    numbers: tuple[int | None, int | None, int | None]

    @property
    def ok(self) -> bool:
        return len({number for number in self.numbers if number is not None}) == 1


def _request_checks(evidence: Evidence) -> list[_Check]:
    sent: Counter[tuple[str, str]] = Counter((each.case.framework, each.ending) for each in evidence.outcomes)
    spans = Counter((_framework(span), _ending(span)) for span in _requests(evidence.received.spans))
    counted: Counter[tuple[str, str]] = Counter()
    for point in evidence.received.latest_points(semconv.INFERENCE_DURATION.name):
        counted[str(point.attributes.get(semconv.AIMON_FRAMEWORK)), _ending(point)] += point.count or 0
    kinds = {framework: kind for kind, framework in _FRAMEWORKS.items()}
    keys: list[tuple[str, str]] = [(case.framework, case.expected) for case in CASES]
    keys += sorted({*sent, *spans, *counted} - set(keys))
    return [
        _Check(f"{kinds.get(key[0], key[0])}, {key[1]}", (sent[key], spans[key], counted[key]))
        for key in sorted(keys, key=lambda key: list(kinds).index(key[0]) if key[0] in kinds else len(kinds))
    ]


def _token_checks(evidence: Evidence) -> list[_Check]:
    key = semconv.GEN_AI_USAGE_OUTPUT_TOKENS
    requests = [span for span in _requests(evidence.received.spans) if key in span.attributes]
    whole = sum(span.attributes[key] for span in requests if _ending(span) == "completed")
    received = sum(each.tokens for each in evidence.outcomes)
    counted = sum(
        int(point.value or 0)
        for point in evidence.received.latest_points(semconv.INFERENCE_TOKENS.name)
        if point.attributes.get(semconv.GEN_AI_TOKEN_TYPE) == "output"
    )
    every = sum(span.attributes[key] for span in requests)
    return [
        _Check("output tokens of completed streams", (received, whole, None)),
        _Check("output tokens of all streams", (None, every, counted)),
    ]


# --- traces ------------------------------------------------------------------------------------


def _requests(spans: Sequence[Span]) -> list[Span]:
    """The spans of ours that are requests, not stages of one."""
    ours = {span.span_id for span in spans if span.scope == semconv.SCOPE}
    return [span for span in spans if span.span_id in ours and span.parent_id not in ours]


def _framework(span: Span) -> str:
    return str(span.attributes.get(semconv.AIMON_FRAMEWORK))


def _ending(seen: Span | Point) -> str:
    error = seen.attributes.get(semconv.ERROR_TYPE)
    if error is None:
        return "completed"
    return "abandoned" if error == semconv.ERROR_TYPE_CANCELLED else "failed"


_ENDINGS = ("completed", "failed", "abandoned")


def _by_kind(item: tuple[tuple[str, str, str], Span]) -> tuple[int, int]:
    framework, _, ending = item[0]
    frameworks = list(_FRAMEWORKS.values())
    place = frameworks.index(framework) if framework in frameworks else len(frameworks)
    return place, _ENDINGS.index(ending)


def _root(span: Span, by_id: dict[str, Span]) -> Span:
    seen = {span.span_id}
    while (parent := by_id.get(span.parent_id)) is not None and parent.span_id not in seen:
        seen.add(parent.span_id)
        span = parent
    return span


def _tree(span: Span, children: dict[str, list[Span]]) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": span.kind,
        "duration_s": span.seconds,
        "failed": span.status == _ERROR_STATUS,
        "attributes": span.attributes,
        "trace_id": span.trace_id,
        "children": [
            _tree(child, children)
            for child in sorted(children.get(span.span_id, ()), key=lambda each: each.start_ns)
        ],
    }


_TREE_ATTRIBUTES = (
    ("http.response.status_code", "HTTP"),
    (semconv.ERROR_TYPE, "error"),
    (semconv.AIMON_FRAMEWORK, ""),
    (semconv.AIMON_BATCH_SIZE, "batch"),
    (semconv.AIMON_DEVICE, "device"),
    (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "tokens out"),
    (semconv.AIMON_TIME_TO_FIRST_TOKEN, "TTFT"),
)


def _shown(key: str, value: object) -> str:
    if key == semconv.ERROR_TYPE:
        return _class_name(value)
    return seconds(value) if isinstance(value, float) else str(value)


def _tree_rows(tree: dict[str, Any], depth: int) -> list[tuple[str, ...]]:
    shown = (
        f"{label} {_shown(key, found)}".lstrip()
        for key, label in _TREE_ATTRIBUTES
        if (found := tree["attributes"].get(key)) is not None
    )
    name = cut("  " * depth + tree["name"], 44)
    rows = [(name, seconds(tree["duration_s"]), ", ".join(shown))]
    return rows + [row for child in tree["children"] for row in _tree_rows(child, depth + 1)]


# --- metrics -----------------------------------------------------------------------------------


def _model(point: Point) -> str:
    """Framework, operation and model, as far as it has them."""
    keys = next((keys for keys in _MODEL_KEYS if not point.attributes.keys().isdisjoint(keys)), ())
    return " ".join(str(point.attributes[key]) for key in keys if key in point.attributes)


def _others(point: Point) -> str:
    """What else tells its time series from others of the model."""
    rest = {key: value for key, value in point.attributes.items() if key not in _SHOWN_BY_MODEL}
    error = rest.pop(semconv.ERROR_TYPE, None)
    texts = [str(rest[key]) for key in sorted(rest)]
    return " ".join(texts if error is None else [*texts, _class_name(error)])


def _class_name(error: object) -> str:
    return str(error).rpartition(".")[2]


def _histogram_lines(points: Sequence[Point]) -> list[str]:
    rows: list[tuple[str, ...]] = [("histogram, model, error", "count", "mean", "p50", "p95")]
    for heading, point in _with_headings(points):
        if heading:
            rows.append((heading, "", "", "", ""))
        label = "  ".join(filter(None, (_model(point), _others(point))))
        bounds = (bucket_bound(point, 0.5), bucket_bound(point, 0.95))
        shown = ("-" if each is None else f"≤ {quantity(each, point.unit)}" for each in bounds)
        rows.append((cut(f"  {label}", _LABEL), str(point.count), quantity(_mean(point), point.unit), *shown))
    return [*table(rows, numbers_from=1), "(p50 and p95: upper bounds of the buckets that hold them)"]


def _value_lines(points: Sequence[Point]) -> list[str]:
    rows: list[tuple[str, ...]] = [("counter or gauge, model", "value")]
    above = None
    for heading, point in _with_headings(points):
        value = quantity(point.value, point.unit)
        model, others = _model(point), _others(point)
        labelled = f"{others}: {value}" if others else value
        if (point.metric, model) == above:
            rows[-1] = (rows[-1][0], f"{rows[-1][1]}, {labelled}")
        elif not model:
            rows.append((heading, labelled))
        else:
            if heading:
                rows.append((heading, ""))
            rows.append((cut(f"  {model}", _LABEL), labelled))
        above = (point.metric, model)
    return wrapped_table(rows)


def _with_headings(points: Iterable[Point]) -> Iterator[tuple[str, Point]]:
    """Each point, the first of each metric with the metric's name and unit."""
    above = None
    for point in points:
        unit = "" if point.unit in {"1", "s", "By"} else f" ({point.unit.replace('{', '').replace('}', '')})"
        yield ("" if point.metric == above else point.metric + unit), point
        above = point.metric


def _mean(point: Point) -> float | None:
    return point.total / point.count if point.count and point.total is not None else None


def bucket_bound(point: Point, quantile: float) -> float | None:
    """The upper bound of the bucket that holds a quantile; None past the last bound."""
    rank, seen = quantile * (point.count or 0), 0
    for bound, number in zip(point.bounds, point.bucket_counts, strict=False):
        seen += number
        if number and seen >= rank:
            return bound
    return None


def _point_data(point: Point) -> dict[str, Any]:
    data: dict[str, Any] = {
        "metric": point.metric,
        "unit": point.unit,
        "kind": point.kind,
        "attributes": point.attributes,
    }
    if point.count is None:
        return {**data, "value": point.value}
    return {
        **data,
        "count": point.count,
        "mean": _mean(point),
        "p50_at_most": bucket_bound(point, 0.5),
        "p95_at_most": bucket_bound(point, 0.95),
    }


# --- numbers -----------------------------------------------------------------------------------


def _p50_p95(durations: list[float]) -> tuple[float | None, float | None]:
    if len(durations) < 2:
        return (durations[0], durations[0]) if durations else (None, None)
    cuts = quantiles(durations, n=100, method="inclusive")
    return cuts[49], cuts[94]
