"""The rules that otel-aimon comes with. Every number that decides when an alert fires stands here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from otel_aimon.analysis.slo import DEFAULT_OBJECTIVES, WINDOWS, Objective

Severity = Literal["info", "warning", "critical"]
Category = Literal["slo", "threshold", "anomaly", "forecast", "watchdog", "custom"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the mildest to the worst."""

_HYSTERESIS = 0.7
"""An alert on a ratio or a utilisation clears below this share of its threshold."""

_CUSUM_HYSTERESIS = 0.25
"""The same for a cumulative sum, which falls slowly."""


_ANOMALY_KEEPS_FIRING = 300.0
"""What is judged by the usual comes and goes while it lasts: one fault shall be one alert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When an alert fires, when it clears, and what it tells people.

    Attributes:
        name: Unique name.
        category: How it judges: an objective, a fixed threshold, a change, a forecast, or a watchdog.
        domain: Alerts of one domain and model are told together.
        signal: What is measured.
        unit: UCUM unit of the signal's value.
        severity: How bad it is.
        on: The score at which the condition is met.
        off: The score at which it is clear again; between the two the alert stays as it is.
        above: The condition is met at or above ``on``; False: at or below.
        hold: Seconds for which the condition must be met before the alert fires.
        needed: Of so many ...
        of: ... consecutive evaluations that the condition must be met in; scaled to those within ``hold``.
        every: Seconds between two evaluations.
        keep_firing: Seconds for which the condition must be clear before the alert resolves; doubled
            for each episode of the last half hour.
        repeat: Seconds between two events that say that the alert is still firing.
        samples: Observations that a score needs to count as met.
        nodata: ``hold``: without data a firing alert stays. ``alert``: missing data is an alert.
        evidence: Name under which its evidence comes; its own by default.
        score_unit: Unit of ``on`` and ``off``, where the score is not the signal itself: UCUM, or empty
            for a statistic that has none.
        inhibited_by: Rules that explain this one away while they are active, by name or pattern.
        summary: One sentence for people; may name {where}, {value}, {threshold}, {baseline}, {score},
            {signal}, {window} and {samples}.
        rationale: Why the rule is there and why its numbers are what they are.
        version: Raised when the rule's meaning changes.
    """

    name: str
    category: Category
    domain: str
    signal: str
    unit: str
    severity: Severity
    on: float
    off: float
    summary: str
    rationale: str
    above: bool = True
    hold: float = 0.0
    needed: int = 4
    of: int = 5
    every: float = 10.0
    keep_firing: float = 120.0
    repeat: float = 300.0
    samples: int = 0
    nodata: Literal["hold", "alert"] = "hold"
    evidence: str = ""
    score_unit: str | None = None
    inhibited_by: tuple[str, ...] = ()
    version: int = 1

    @property
    def source(self) -> str:
        """The name that evidence for this rule bears."""
        return self.evidence or self.name

    @property
    def scale(self) -> str:
        """UCUM unit of ``on`` and ``off``; empty for a statistic."""
        return self.unit if self.score_unit is None else self.score_unit

    @property
    def ticks(self) -> int:
        """Evaluations that the machine looks back on."""
        return max(self.of, math.floor(self.hold / self.every + 1e-9) + 1)

    @property
    def ticks_needed(self) -> int:
        """How many of them must meet the condition."""
        return math.ceil(self.ticks * self.needed / self.of - 1e-9)

    def is_met(self, score: float) -> bool:
        """Whether ``score`` meets the condition; never for NaN."""
        return score >= self.on if self.above else score <= self.on

    def is_clear(self, score: float) -> bool:
        """Whether ``score`` is clear of the condition; never for NaN.

        A rule without hysteresis (``on == off``) is clear as soon as it is not met.
        """
        return score < self.off if self.above else score > self.off

    def is_worse(self, score: float, than: float) -> bool:
        """Whether one score is further into the condition than another."""
        return score > than if self.above else score < than


_SLI_SIGNALS = {
    "error": ("aimon.inference.error.ratio", "failed"),
    "ttft": ("gen_ai.server.time_to_first_token", "got their first token too late"),
    "tpot": ("gen_ai.server.time_per_output_token", "got their tokens too slowly"),
    "e2e": ("aimon.inference.duration", "took too long"),
}


def burn_rules(objective: Objective) -> tuple[Rule, ...]:
    """The fast and the slow burn-rate rule of an objective.

    The threshold is capped at half of the largest burn rate that can occur, 1 / (1 - target): without
    that, the rule of an objective below 93.06 % could never fire.
    """
    signal, what = _SLI_SIGNALS[objective.sli]
    return tuple(
        Rule(
            name=f"slo.{objective.name}.burn_{pair.name}",
            category="slo",
            domain="errors" if objective.sli == "error" else "latency",
            signal=signal,
            unit="1",
            severity="critical",
            score_unit="",
            on=min(pair.threshold, 0.5 * objective.largest_burn_rate),
            off=0.8 * min(pair.threshold, 0.5 * objective.largest_burn_rate),
            needed=1,
            of=1,
            keep_firing=pair.short,
            summary=f"The error budget of {{where}} burns {{score}} times too fast: in the last {_hours(pair.long)}, "
            f"{{value}} of its requests {what} (objective {objective.describe()}).",
            rationale=f"Site Reliability Workbook: {pair.budget * 100:.0f} % of a 30-day budget within {_hours(pair.long)}, "
            f"and still burning within the last {_hours(pair.short)}.",
        )
        for pair in WINDOWS
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


_ERROR_RATIO = Rule(
    name="error.ratio",
    category="threshold",
    domain="errors",
    signal="aimon.inference.error.ratio",
    unit="1",
    severity="warning",
    on=0.05,
    off=0.05 * _HYSTERESIS,
    hold=300.0,
    samples=20,
    summary="{value} of the requests of {where} failed in the last {window}.",
    rationale="As the rules of llm-d, without waiting for 10 minutes.",
)

_SATURATION = Rule(
    name="saturation.concurrency",
    category="threshold",
    domain="capacity",
    signal="aimon.hint.concurrency.utilization",
    unit="1",
    severity="warning",
    on=0.9,
    off=0.75,
    hold=60.0,
    summary="{where} is at {value} of the concurrency that it can serve well.",
    rationale="The hinted limit is the knee: beyond it, latency grows and throughput does not.",
)

_MEMORY_EXHAUSTION = Rule(
    name="memory.exhaustion",
    category="forecast",
    domain="memory",
    signal="aimon.memory.utilization",
    unit="s",
    severity="warning",
    on=3600.0,
    off=5400.0,
    above=False,
    hold=60.0,
    summary="At the present rate the memory of {where} is full in {value}.",
    rationale="A leak ends in an out-of-memory kill; an hour is enough to act in.",
)

_OTHERS = (
    Rule(
        name="error.shift",
        category="anomaly",
        domain="errors",
        signal="aimon.inference.error.ratio",
        unit="1",
        severity="warning",
        score_unit="",
        on=10.0,
        off=1.0,
        needed=1,
        of=1,
        keep_firing=_ANOMALY_KEEPS_FIRING,
        summary="More requests of {where} fail than usual: {value} instead of {baseline}.",
        rationale="A sum of log-likelihood ratios, in nats: 5 % of errors show within 20 s, a creep to 1.3 points "
        "above the usual within 40 minutes, both long before a burn rate does.",
    ),
    _ERROR_RATIO,
    replace(
        _ERROR_RATIO,
        name="error.ratio.critical",
        evidence="error.ratio",
        severity="critical",
        on=0.2,
        off=0.2 * _HYSTERESIS,
        hold=120.0,
    ),
    Rule(
        name="latency.shift",
        category="anomaly",
        domain="latency",
        signal="gen_ai.server.time_per_output_token",
        unit="s",
        severity="warning",
        score_unit="",
        on=18.0,
        off=4.0,
        needed=2,
        of=2,
        keep_firing=_ANOMALY_KEEPS_FIRING,
        summary="{where} became slower: {value} per unit of work instead of {baseline}.",
        rationale="The log-likelihood ratio, in nats, of a step of the token-normalised latency above its profile of "
        "the day, in noise as it was learned: a step of 50 % shows in one or two minutes, and longer prompts are "
        "not taken for a slower model.",
    ),
    Rule(
        name="latency.drift",
        category="anomaly",
        domain="latency",
        signal="gen_ai.server.time_per_output_token",
        unit="s",
        severity="warning",
        score_unit="",
        on=1.0,
        off=0.5,
        needed=3,
        of=3,
        keep_firing=_ANOMALY_KEEPS_FIRING,
        summary="{where} gets slower and slower: {value} per unit of work instead of {baseline}.",
        rationale="The mean of 15 to 60 minutes above the profile of the day, divided by what counts as drift: 9 %, or "
        "five standard deviations of such a mean, whichever is more.",
    ),
    Rule(
        name="latency.spike",
        category="anomaly",
        domain="latency",
        signal="gen_ai.server.time_per_output_token",
        unit="s",
        severity="info",
        score_unit="",
        on=5.0,
        off=1.0,
        needed=2,
        of=2,
        summary="Latency of {where} is extreme: {value} instead of {baseline}.",
        rationale="Extreme value theory: -log10 of the probability of such a tick, twice running. Early, but too restless "
        "to wake anyone.",
    ),
    Rule(
        name="traffic.drop",
        category="anomaly",
        domain="traffic",
        signal="aimon.inference.throughput",
        unit="{request}/s",
        severity="warning",
        score_unit="",
        on=10.0,
        off=1.0,
        needed=1,
        of=1,
        keep_firing=_ANOMALY_KEEPS_FIRING,
        summary="{where} gets far fewer requests than usual: {value} instead of {baseline}.",
        rationale="Something upstream is broken; no rule on requests that come can see those that do not. A sum of "
        "log-likelihood ratios, in nats, of a quarter of the usual traffic.",
    ),
    Rule(
        name="traffic.surge",
        category="anomaly",
        domain="traffic",
        signal="aimon.inference.throughput",
        unit="{request}/s",
        severity="warning",
        score_unit="",
        on=10.0,
        off=1.0,
        needed=1,
        of=1,
        keep_firing=_ANOMALY_KEEPS_FIRING,
        summary="{where} gets far more requests than usual: {value} instead of {baseline}.",
        rationale="Overload is ahead. A sum of log-likelihood ratios, in nats, of four times the usual traffic.",
    ),
    Rule(
        name="queue.wait",
        category="forecast",
        domain="capacity",
        signal="aimon.inference.queue.size",
        unit="s",
        severity="warning",
        score_unit="1",
        on=0.5,
        off=0.5 * _HYSTERESIS,
        hold=30.0,
        every=1.0,
        summary="Requests of {where} will wait {value} in the queue, {score} times what their first token may take.",
        rationale="Little's law, queue / throughput: tells of a breach before the latency of finished requests does.",
    ),
    _SATURATION,
    replace(
        _SATURATION,
        name="saturation.concurrency.critical",
        evidence="saturation.concurrency",
        severity="critical",
        on=1.1,
        hold=30.0,
    ),
    Rule(
        name="kv.pressure",
        category="threshold",
        domain="capacity",
        signal="aimon.engine.kv_cache.utilization",
        unit="1",
        severity="warning",
        on=0.9,
        off=0.8,
        hold=60.0,
        summary="The KV cache of {where} is {value} full.",
        rationale="llm-d calls 80 % saturated; beyond 90 % an engine preempts requests and computes them again.",
    ),
    Rule(
        name="kv.preemptions",
        category="threshold",
        domain="capacity",
        signal="aimon.engine.preemptions",
        unit="{request}/s",
        severity="warning",
        on=1e-9,
        off=1e-9,
        hold=30.0,
        summary="The engine of {where} preempts {value}: the KV cache is too small for what is admitted.",
        rationale="Preempted work is done twice, and goodput collapses.",
    ),
    _MEMORY_EXHAUSTION,
    replace(
        _MEMORY_EXHAUSTION,
        name="memory.exhaustion.critical",
        evidence="memory.exhaustion",
        severity="critical",
        on=600.0,
        off=900.0,
        hold=30.0,
    ),
    Rule(
        name="memory.high",
        category="threshold",
        domain="memory",
        signal="aimon.memory.utilization",
        unit="1",
        severity="warning",
        on=0.95,
        off=0.9,
        hold=60.0,
        summary="Memory of {where} is {value} full.",
        rationale="The kernel kills at 100 % of the limit; caches that it can drop do not count.",
    ),
    Rule(
        name="cpu.saturated",
        category="threshold",
        domain="cpu",
        signal="aimon.cpu.utilization",
        unit="1",
        severity="info",
        on=0.95,
        off=0.95 * _HYSTERESIS,
        hold=300.0,
        summary="{where} uses {value} of its CPUs.",
        rationale="Explains slow tokenisation and sampling; alone it harms nobody, so it is only information.",
    ),
    Rule(
        name="cpu.throttled",
        category="threshold",
        domain="cpu",
        signal="aimon.cpu.throttled.ratio",
        unit="1",
        severity="warning",
        on=0.25,
        off=0.25 * _HYSTERESIS,
        hold=300.0,
        summary="The CPU quota of {where} ran out in {value} of its periods.",
        rationale="Each throttled period stops all threads for up to a tenth of a second, also those that feed a GPU.",
    ),
    Rule(
        name="gpu.memory.high",
        category="threshold",
        domain="gpu",
        signal="hw.gpu.memory.utilization",
        unit="1",
        severity="info",
        on=0.98,
        off=0.95,
        hold=300.0,
        summary="Memory of {where} is {value} full.",
        rationale="Engines reserve about 90 % at the start; beyond 98 % the next allocation may fail.",
    ),
    Rule(
        name="gpu.throttled",
        category="threshold",
        domain="gpu",
        signal="aimon.gpu.throttled",
        unit="1",
        severity="warning",
        on=0.1,
        off=0.1 * _HYSTERESIS,
        hold=60.0,
        summary="{where} was throttled by heat or its power supply in {value} of the samples.",
        rationale="Hardware slowdown, thermal slowdown and power brake: the clock drops by half or more.",
    ),
    Rule(
        name="gpu.power_capped",
        category="threshold",
        domain="gpu",
        signal="aimon.gpu.throttled",
        unit="1",
        severity="info",
        on=0.5,
        off=0.5 * _HYSTERESIS,
        hold=60.0,
        inhibited_by=("gpu.throttled",),
        summary="{where} ran at its power limit in {value} of the samples.",
        rationale="Normal under full load; explains a clock below its maximum.",
    ),
    Rule(
        name="gpu.error",
        category="threshold",
        domain="gpu",
        signal="hw.errors",
        unit="{error}",
        severity="critical",
        on=1.0,
        off=1.0,
        needed=1,
        of=1,
        every=1.0,
        keep_firing=300.0,
        summary="{where} reported {value}.",
        rationale="An XID or an uncorrected memory error: what the device computes can no longer be relied on.",
    ),
    Rule(
        name="stall",
        category="watchdog",
        domain="capacity",
        signal="aimon.inference.active",
        unit="s",
        severity="critical",
        score_unit="",
        on=1.0,
        off=1.0,
        needed=1,
        of=1,
        every=1.0,
        keep_firing=60.0,
        summary="{where} has requests in flight, and none has made progress for {value}.",
        rationale="A hung engine: longer than 30 s and ten times the 99th percentile between two signs of progress.",
    ),
    Rule(
        name="gpu.idle_under_load",
        category="threshold",
        domain="gpu",
        signal="aimon.gpu.activity",
        unit="1",
        severity="warning",
        on=0.2,
        off=0.3,
        above=False,
        hold=60.0,
        summary="{where} is active for {value} of the time although requests wait.",
        rationale="The device starves: what feeds it is the bottleneck.",
    ),
    Rule(
        name="model.imbalance",
        category="anomaly",
        domain="latency",
        signal="gen_ai.server.time_per_output_token",
        unit="s",
        severity="warning",
        score_unit="1",
        on=1.5,
        off=1.25,
        hold=60.0,
        keep_firing=_ANOMALY_KEEPS_FIRING,
        summary="Compared with the other models, {where} is {score} times as slow as usual: {value} instead of {baseline}.",
        rationale="One slow model among many is hidden in every average. The ratio counts from four standard "
        "deviations on.",
    ),
    Rule(
        name="workload.shift",
        category="anomaly",
        domain="workload",
        signal="aimon.inference.tokens",
        unit="{token}",
        severity="info",
        score_unit="",
        on=15.0,
        off=15.0 * _CUSUM_HYSTERESIS,
        needed=1,
        of=1,
        summary="Requests of {where} have another size than usual: {value} instead of {baseline}.",
        rationale="Explains raw latency that changes although the model is as fast as ever. A two-sided cumulative "
        "sum, in standard deviations.",
    ),
    Rule(
        name="telemetry.dropped",
        category="threshold",
        domain="telemetry",
        signal="otel.sdk.processor.span.processed",
        unit="{span}",
        severity="warning",
        on=1.0,
        off=1.0,
        hold=60.0,
        summary="The exporters of {where} dropped {value} in the last {window}: what the backend shows is incomplete.",
        rationale="An alert that cannot leave the process helps nobody.",
    ),
)

RULES: tuple[Rule, ...] = (
    *(rule for objective in DEFAULT_OBJECTIVES for rule in burn_rules(objective)),
    *_OTHERS,
)
"""All rules, in the order of the docs."""
