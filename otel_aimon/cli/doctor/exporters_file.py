"""Where each signal goes when a declarative file decides: it replaces the variables of exporters."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from otel_aimon.cli.doctor.endpoints import GRPC, HTTP, PORTS, address
from otel_aimon.cli.doctor.exporters import FILE, SIGNALS, Exporters, Target, secure
from otel_aimon.cli.doctor.findings import masked
from otel_aimon.cli.doctor.packages import entry_points

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.cli.doctor.findings import Seen

_PROVIDERS = {"traces": "tracer_provider", "metrics": "meter_provider", "logs": "logger_provider"}
_OTLP = {"otlp_grpc": ("otlp_proto_grpc", GRPC), "otlp_http": ("otlp_proto_http", HTTP)}
_DEFAULT_TIMEOUT_MILLIS = 10_000
_DEFAULT_INTERVAL_MILLIS = 60_000


def look(seen: Seen) -> Exporters:
    """Read the file's exporters; none when it cannot be used, which the settings say."""
    path = seen.settings.config_file
    loaded: Any = None
    if path and seen.settings.config_file_sections is not None:
        from opentelemetry.configuration import load_config_file

        loaded = load_config_file(path)
    readers = [
        reader.periodic
        for reader in getattr(getattr(loaded, "meter_provider", None), "readers", None) or ()
        if getattr(reader, "periodic", None) is not None
    ]
    intervals = [
        _DEFAULT_INTERVAL_MILLIS if reader.interval is None else reader.interval for reader in readers
    ]
    return Exporters(
        FILE,
        tuple(target for signal in SIGNALS for target in _targets(signal, loaded)),
        max(intervals) / 1000 if intervals else None,
        None,
        None,
        _service_name(loaded),
    )


def _targets(signal: str, loaded: Any) -> Iterator[Target]:
    provider = getattr(loaded, _PROVIDERS[signal], None)
    steps = getattr(provider, "readers" if signal == "metrics" else "processors", None) or ()
    known = {point.name for point in entry_points(f"opentelemetry_{signal}_exporter")}
    for step in steps:
        for _, way in _given(step):
            for name, options in _given(getattr(way, "exporter", None)):
                if name in _OTLP:
                    yield _otlp(signal, *_OTLP[name], options, known)
                else:
                    yield Target(signal, name, installed=True)


def _given(choice: Any) -> Iterator[tuple[str, Any]]:
    """The alternatives that a part of the file names."""
    if is_dataclass(choice):
        for spec in fields(choice):
            value = getattr(choice, spec.name)
            if value is not None:
                yield spec.name, value


def _otlp(signal: str, exporter: str, protocol: str, options: Any, known: set[str]) -> Target:
    default = f"http://localhost:{PORTS[protocol]}" + ("" if protocol == GRPC else f"/v1/{signal}")
    endpoint = getattr(options, "endpoint", None) or default
    where, tls = address(endpoint, protocol), getattr(options, "tls", None)
    headers = [header.name for header in getattr(options, "headers", None) or ()]
    listed = (getattr(options, "headers_list", None) or "").split(",")
    timeout = getattr(options, "timeout", None)
    return Target(
        signal,
        exporter,
        exporter in known,
        protocol,
        masked(endpoint),
        FILE if getattr(options, "endpoint", None) else "default",
        where,
        secure(where, protocol, getattr(tls, "insecure", None)),
        (*headers, *(pair.partition("=")[0].strip() for pair in listed if "=" in pair)),
        (_DEFAULT_TIMEOUT_MILLIS if timeout is None else timeout) / 1000,
        getattr(tls, "ca_file", None),
    )


def _service_name(loaded: Any) -> str | None:
    for attribute in getattr(getattr(loaded, "resource", None), "attributes", None) or ():
        if attribute.name == "service.name":
            return str(attribute.value)
    return None
