"""Other instrumentations in this environment, and what otel-aimon does beside each."""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts

from otel_aimon import semconv
from otel_aimon.cli.doctor.findings import Part, Problem, Seen
from otel_aimon.cli.doctor.installation import US
from otel_aimon.cli.doctor.packages import INSTRUMENTORS, canonical, installed
from otel_aimon.cli.doctor.settings import DISABLED_VARIABLE, disabled
from otel_aimon.cli.text import wrapped, wrapped_table
from otel_aimon.resources.overlap import _OTHER_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

_SYSTEM_METRICS = "opentelemetry-instrumentation-system-metrics"
_TRANSFORMERS = "opentelemetry-instrumentation-transformers"

_PARENTS = "its spans are parents of ours"
_COUNTED = "its inference spans are counted in aimon.inference.*, each request once"
_BESIDE: tuple[tuple[str, str], ...] = (
    (_SYSTEM_METRICS, "the metrics that it emits are left to it"),
    (_TRANSFORMERS, "a request of Transformers has a span of each; it is counted once"),
    ("openinference-instrumentation", _COUNTED),
    ("opentelemetry-instrumentation-genai", _COUNTED),
    *((f"opentelemetry-instrumentation-{name}", _COUNTED) for name in (
        "anthropic", "bedrock", "cohere", "crewai", "google-genai", "google-generativeai", "groq", "haystack",
        "langchain", "llamaindex", "mistralai", "ollama", "openai", "openai-agents", "replicate", "together",
        "vertexai", "watsonx",
    )),
    *((f"opentelemetry-instrumentation-{name}", _PARENTS) for name in (
        "aiohttp-server", "asgi", "django", "falcon", "fastapi", "flask", "grpc", "pyramid", "starlette", "tornado",
        "wsgi", "celery", "kafka", "pika", "aio-pika", "confluent-kafka",
    )),
)  # fmt: skip
"""How the name of a distribution begins → what is done beside it; the first that fits."""

_PEERS = {
    "openlit": f"{_COUNTED}; a request of Transformers may have a span of each, and its GPU metrics come beside hw.*",
    "traceloop-sdk": _COUNTED,
    "logfire": "it sets up an SDK of its own; otel-aimon uses the providers that are global",
    "langfuse": "its span processor joins the global provider and may send our spans to Langfuse too",
    "arize-phoenix-otel": "it sets up a provider of its own; otel-aimon uses the one that is global",
}
"""Distributions that are not loaded by opentelemetry-instrument, but by the application."""


@dataclass(frozen=True)
class Neighbour:
    """Another instrumentation.

    Attributes:
        name: Its entry point; for those that the application starts, the name of the distribution.
        distribution: What has it.
        version: Installed version.
        active: Whether it is active in a process that is started with opentelemetry-instrument; None where the
            application decides.
        why_not: Why not.
        beside: What otel-aimon does beside it; empty where the two have nothing to do with each other.
        left_to_it: Metrics of otel-aimon that are left to it.
    """

    name: str
    distribution: str
    version: str
    active: bool | None
    why_not: str | None
    beside: str
    left_to_it: tuple[str, ...] = ()


def look(seen: Seen) -> tuple[Neighbour, ...]:
    """Read which ones are installed; none is started."""
    versions = installed()
    found = [
        _neighbour(point, seen)
        for point in importlib.metadata.entry_points(group=INSTRUMENTORS)
        if point.dist is not None and canonical(point.dist.metadata["Name"]) != US
    ]
    found.sort(key=lambda each: each.name)
    found += [
        Neighbour(name, name, versions[name], None, None, beside)
        for name, beside in _PEERS.items()
        if name in versions
    ]
    return tuple(found)


def _neighbour(point: Any, seen: Seen) -> Neighbour:
    name = canonical(point.dist.metadata["Name"])
    why_not = _why_not(point, seen)
    beside = next((beside for start, beside in _BESIDE if name == start or name.startswith(f"{start}-")), "")
    left = _left_to_system_metrics() if name == _SYSTEM_METRICS and why_not is None else ()
    return Neighbour(point.name, name, point.dist.version, why_not is None, why_not, beside, left)


def _why_not(point: Any, seen: Seen) -> str | None:
    by = disabled(seen, point.name)
    if by is not None:
        return f"disabled by {by}"
    conflict = get_dist_dependency_conflicts(point.dist)
    return None if conflict is None else "what it instruments is not installed, or in another version"


def _left_to_system_metrics() -> tuple[str, ...]:
    """Our metrics that it emits with its own configuration."""
    try:
        module = importlib.import_module("opentelemetry.instrumentation.system_metrics")
    except ImportError:
        return ()
    build = getattr(module, "_build_default_config", None)
    emitted = build() if build is not None else getattr(module, "_DEFAULT_CONFIG", {})
    return tuple(
        metric.name for metric in semconv.METRICS if _OTHER_NAMES.get(metric.name, metric.name) in emitted
    )


def tell(found: tuple[Neighbour, ...]) -> list[str]:
    """One line each; what is not active is only counted."""
    there = [each for each in found if each.active is not False]
    if not found:
        return ["none"]
    rows = [("instrumentation", "version", "beside it")]
    rows += [(each.name, each.version, each.beside or "-") for each in there]
    idle = [each for each in found if each.active is False]
    lines = wrapped_table(rows) if there else []
    by_reason: dict[str, list[str]] = {}
    for each in idle:
        by_reason.setdefault(each.why_not or "", []).append(each.name)
    for why, names in by_reason.items():
        lines += wrapped(f"not active ({why}): {', '.join(names)}")
    return lines


PART = Part("neighbours", "Other instrumentations", look, tell)

# --- checks ------------------------------------------------------------------------------------


def requests_have_one_span(seen: Seen) -> Iterator[Problem]:
    """Two instrumentations of one framework make two spans of one request."""
    ours = any(each.instrumented for each in seen.frameworks if each.name == "transformers")
    for each in seen.neighbours:
        if ours and each.active and each.distribution == _TRANSFORMERS:
            yield Problem(
                "warning",
                f"{each.distribution} instruments Transformers too: each request has two spans (and is counted once).",
                f"Set {DISABLED_VARIABLE}={each.name}, or aimon_transformers if you want the other one's.",
            )


CHECKS = (requests_have_one_span,)
