"""What will be emitted in this environment, what will not, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_aimon import semconv
from otel_aimon.cli.doctor.findings import Part, Seen
from otel_aimon.cli.doctor.settings import disabled, resolved, why_nothing
from otel_aimon.cli.text import wrapped, wrapped_table
from otel_aimon.config import GPU, HOST, RESOURCES
from otel_aimon.instrumentation.registry import BY_NAME
from otel_aimon.resources.monitor import _METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.cli.doctor.devices import Device
    from otel_aimon.config import Settings

_INFERENCE = ("aimon.inference.", "gen_ai.")
_ENGINE = "aimon.engine."
_ENGINES = "engines"
_SERVING = frozenset({"sglang", "vllm"})
"""Frameworks that are serving engines."""

_OPTIONAL = {
    semconv.INFERENCE_STAGE_DURATION.name: "stages",
    semconv.PROCESS_MEMORY_UNIQUE.name: "unique_memory",
    semconv.PROCESS_EVENT_LOOP_LAG.name: "event_loop_lag",
}
"""Metrics that a setting switches."""

_IN_THE_SERVICE = frozenset({semconv.PROCESS_EVENT_LOOP_LAG.name, semconv.FRAMEWORK_MEMORY.name})
"""Metrics of resources that only the service itself can have."""


@dataclass(frozen=True)
class Spans:
    """Spans of one framework.

    Attributes:
        framework: Value of ``aimon.framework``.
        of: What becomes a span.
    """

    framework: str
    of: str


@dataclass(frozen=True)
class Metrics:
    """Metrics of one section.

    Attributes:
        section: ``inference``, ``engines``, a section of the setting ``resources``, or ``selfmon``.
        emitted: Names.
        absent: Names that will not be emitted, with the reason.
    """

    section: str
    emitted: tuple[str, ...]
    absent: dict[str, str]


@dataclass(frozen=True)
class Signals:
    """What will be emitted.

    Attributes:
        spans: By framework.
        metrics: By section.
    """

    spans: tuple[Spans, ...]
    metrics: tuple[Metrics, ...]


def look(seen: Seen) -> Signals:
    """Put together what the other parts saw."""
    nothing = _why_nothing(seen)
    spans = tuple(
        Spans(each.name, BY_NAME[each.name].records) for each in seen.frameworks if each.instrumented
    )
    return Signals(spans, tuple(_metrics(section, names, nothing, seen) for section, names in _sections()))


def _why_nothing(seen: Seen) -> str | None:
    if any(disabled(seen, entry_point) is None for entry_point in seen.installation.entry_points):
        return why_nothing(seen)
    return why_nothing(seen) or "none of the entry points of otel-aimon is enabled"


def _sections() -> Iterator[tuple[str, tuple[str, ...]]]:
    names = [metric.name for metric in semconv.METRICS]
    sampled = {section: tuple(metric.name for metric in _METRICS[section]) for section in RESOURCES}
    inference = tuple(name for name in names if name.startswith(_INFERENCE))
    engines = tuple(name for name in names if name.startswith(_ENGINE))
    known = {*inference, *engines, *(name for each in sampled.values() for name in each)}
    yield "inference", inference
    yield _ENGINES, engines
    yield from sampled.items()
    yield "selfmon", tuple(name for name in names if name not in known)


def _metrics(section: str, names: tuple[str, ...], nothing: str | None, seen: Seen) -> Metrics:
    settings = resolved(seen)
    absent = {
        name: why
        for name in names
        if (why := nothing or _why_absent(section, name, settings, seen)) is not None
    }
    return Metrics(section, tuple(name for name in names if name not in absent), absent)


def _why_absent(section: str, name: str, settings: Settings, seen: Seen) -> str | None:
    option = _OPTIONAL.get(name)
    if option is not None and not getattr(settings, option):
        return f"the setting {option} is off"
    if name == semconv.INFERENCE_ENERGY.name:
        return _why_no_energy(settings, seen)
    if section == _ENGINES and not any(
        each.instrumented for each in seen.frameworks if each.name in _SERVING
    ):
        return "no serving engine is instrumented"
    if section not in RESOURCES:
        return None
    if section not in settings.resources:
        return f"the setting resources leaves {section} out"
    for neighbour in seen.neighbours:
        if name in neighbour.left_to_it:
            return f"left to {neighbour.distribution}"
    gpus = [device for device in seen.resources.devices if device.kind == GPU and device.visible]
    if name in _IN_THE_SERVICE:
        return "no GPU is read" if section == GPU and not gpus else None
    if name == semconv.HW_ENERGY.name:
        devices = [device for device in seen.resources.devices if (device.kind == GPU) == (section == GPU)]
        return None if any("energy" in device.values for device in devices) else _no_values(section, devices)
    if name in seen.resources.observed:
        return None
    return _no_values(section, gpus)


def _no_values(section: str, devices: list[Device]) -> str:
    if section == GPU and not devices:
        return "no GPU is read"
    return "not known here, or not limited"


def _why_no_energy(settings: Settings, seen: Seen) -> str | None:
    if not {GPU, HOST} & set(settings.resources):
        return "the setting resources leaves gpu and host out"
    told = any({"energy", "power"} & set(device.values) for device in seen.resources.devices)
    return None if told else "no device tells its energy"


def tell(found: Signals) -> list[str]:
    """Spans by framework; metrics by section, the absent ones by reason."""
    rows = [
        ("spans of", "one for each"),
        *((each.framework, each.of.replace("`", "")) for each in found.spans),
    ]
    lines = wrapped_table(rows) if found.spans else ["no spans of frameworks"]
    for each in found.metrics:
        total = len(each.emitted) + len(each.absent)
        lines += ["", f"metrics, {each.section}: {len(each.emitted)} of {total}"]
        lines += wrapped(", ".join(each.emitted), "  ", "  ")
        by_reason: dict[str, list[str]] = {}
        for name, why in each.absent.items():
            by_reason.setdefault(why, []).append(name)
        for why, names in by_reason.items():
            lines += wrapped(f"absent, as {why}:", "  ", "  ")
            lines += wrapped(", ".join(names), "    ", "    ")
    return lines


PART = Part("signals", "What will be emitted", look, tell)
