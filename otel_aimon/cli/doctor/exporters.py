"""Where each signal goes: what the environment or the declarative file resolves to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from otel_aimon.cli.doctor.endpoints import GRPC, HTTP, PORTS, Address, address, reach
from otel_aimon.cli.doctor.findings import Part, Seen, masked
from otel_aimon.cli.doctor.packages import entry_points
from otel_aimon.cli.text import seconds, wrapped_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SIGNALS = ("traces", "metrics", "logs")
OTLP = "otlp"
PROTOCOLS = {"otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}
"""Entry point of an exporter → the protocol that it speaks."""

ENVIRONMENT, FILE = "environment", "declarative file"
_DEFAULT_TIMEOUT = "10"
_DEFAULT_INTERVAL_MILLIS = "60000"
_DEFAULT_SAMPLER = "parentbased_always_on"


@dataclass(frozen=True)
class Target:
    """One exporter of one signal.

    Attributes:
        signal: ``traces``, ``metrics`` or ``logs``.
        exporter: Its name, such as ``otlp_proto_grpc`` or ``console``.
        installed: Whether there is such an exporter.
        protocol: OTLP's; None for others.
        endpoint: Without credentials; None for others than OTLP.
        endpoint_from: The variable that has it, ``default`` or ``declarative file``.
        address: The endpoint in its parts.
        secure: Whether TLS is used.
        headers: Names of the headers that are sent, never their values.
        timeout_s: Seconds for one export; None when what is set is no number.
        certificate: The file of certificates to trust, if one is set.
        reachable: Whether something accepted a connection; None when that was not tried.
        why_not: Why nothing did.
    """

    signal: str
    exporter: str
    installed: bool
    protocol: str | None = None
    endpoint: str | None = None
    endpoint_from: str | None = None
    address: Address | None = None
    secure: bool | None = None
    headers: tuple[str, ...] = ()
    timeout_s: float | None = None
    certificate: str | None = None
    reachable: bool | None = None
    why_not: str | None = None


@dataclass(frozen=True)
class Exporters:
    """Where everything goes.

    Attributes:
        source: ``environment`` or ``declarative file``.
        targets: All exporters.
        metric_interval_s: Seconds between two exports of metrics; None where what is set is no number.
        sampler: Name of the sampler of traces; None where a declarative file decides.
        sampler_argument: Its argument.
        service_name: What the telemetry is said to come from, if it is set.
    """

    source: str
    targets: tuple[Target, ...]
    metric_interval_s: float | None
    sampler: str | None
    sampler_argument: str | None
    service_name: str | None

    def of(self, signal: str) -> list[Target]:
        """The exporters of a signal."""
        return [target for target in self.targets if target.signal == signal]


def look(seen: Seen) -> Exporters:
    """Resolve what the SDK would, and try the endpoints."""
    if seen.settings.config_file:
        from otel_aimon.cli.doctor import exporters_file

        found = exporters_file.look(seen)
    else:
        found = _from_environment(seen.environ, defaults=_distro_defaults(seen))
    return found if seen.offline else _tried(found)


def _distro_defaults(seen: Seen) -> dict[str, str]:
    """What opentelemetry-distro sets unless it is set; other distros have defaults of their own."""
    if seen.installation.distro is None or seen.installation.foreign_distro is not None:
        return {}
    return {
        **{f"OTEL_{signal.upper()}_EXPORTER": OTLP for signal in SIGNALS},
        "OTEL_EXPORTER_OTLP_PROTOCOL": GRPC,
    }


def _from_environment(environ: Mapping[str, str], defaults: Mapping[str, str]) -> Exporters:
    # As with os.environ.setdefault: a variable that is set to nothing stays so.
    effective = {**defaults, **environ}
    resource = dict(_pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")))
    return Exporters(
        ENVIRONMENT,
        tuple(_targets(effective)),
        _scaled(environ.get("OTEL_METRIC_EXPORT_INTERVAL", _DEFAULT_INTERVAL_MILLIS), 0.001),
        environ.get("OTEL_TRACES_SAMPLER") or _DEFAULT_SAMPLER,
        environ.get("OTEL_TRACES_SAMPLER_ARG"),
        environ.get("OTEL_SERVICE_NAME") or resource.get("service.name"),
    )


def _targets(environ: Mapping[str, str]) -> Iterator[Target]:
    for signal in SIGNALS:
        names = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "")
        if not names or names.lower().strip() == "none":
            continue
        known = {point.name for point in entry_points(f"opentelemetry_{signal}_exporter")}
        for name in dict.fromkeys(each.strip() for each in names.split(",")):
            exporter, protocol = _implementation(name, signal, environ)
            spoken = protocol is None or protocol in PORTS
            target = Target(signal, exporter, spoken and exporter in known, protocol)
            yield _otlp(target, environ) if protocol in PORTS else target


def _implementation(name: str, signal: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Entry point and protocol of an exporter's name."""
    if name in PROTOCOLS:
        return name, PROTOCOLS[name]
    if name != OTLP:
        return name, None
    set_to = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    protocol = (set_to or GRPC).strip()
    return next((each for each, speaks in PROTOCOLS.items() if speaks == protocol), name), protocol


def _otlp(target: Target, environ: Mapping[str, str]) -> Target:
    signal, protocol = target.signal, target.protocol or GRPC

    def option(name: str) -> tuple[str | None, str]:
        for variable in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
            if environ.get(variable):
                return environ[variable], variable
        return None, "default"

    endpoint, variable = option("ENDPOINT")
    resolved = endpoint or f"http://localhost:{PORTS[protocol]}"
    if protocol == HTTP and variable in {"OTEL_EXPORTER_OTLP_ENDPOINT", "default"}:
        resolved = f"{resolved.removesuffix('/')}/v1/{signal}"
    where = address(resolved, protocol)
    insecure = option("INSECURE")[0]
    return Target(
        signal,
        target.exporter,
        target.installed,
        protocol,
        masked(resolved),
        variable,
        where,
        secure(where, protocol, None if insecure is None else insecure.lower() == "true"),
        tuple(name for name, _ in _pairs(option("HEADERS")[0] or "")),
        _scaled(option("TIMEOUT")[0] or _DEFAULT_TIMEOUT, 1.0),
        option("CERTIFICATE")[0],
    )


def secure(where: Address, protocol: str, insecure: bool | None) -> bool:
    """Whether an exporter uses TLS.

    Args:
        where: Its endpoint.
        protocol: Only gRPC heeds more than the scheme.
        insecure: What is set, if it is.
    """
    if where.scheme == "https" or protocol == HTTP or insecure is None:
        return where.scheme == "https" if protocol == HTTP else where.scheme != "http"
    return not insecure


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        if name.strip() and equals:
            yield name.strip(), value.strip()


def _scaled(text: str, factor: float) -> float | None:
    try:
        return float(text) * factor
    except ValueError:
        return None


def _tried(found: Exporters) -> Exporters:
    places = [
        (target.address.host, target.address.port)
        for target in found.targets
        if target.address is not None and target.address.host and target.address.port is not None
    ]
    reached = reach(places)
    return replace(found, targets=tuple(_with_answer(target, reached) for target in found.targets))


def _with_answer(target: Target, reached: dict[tuple[str, int], str | None]) -> Target:
    if target.address is None or target.address.port is None:
        return target
    place = (target.address.host, target.address.port)
    if place not in reached:
        return target
    return replace(target, reachable=reached[place] is None, why_not=reached[place])


def tell(found: Exporters) -> list[str]:
    """One line per exporter, and how often."""
    rows: list[tuple[str, ...]] = [
        ("signal", "exporter", "TLS", "headers", "timeout", "reachable", "endpoint")
    ]
    for signal in SIGNALS:
        targets = found.of(signal)
        rows += [_row(target) for target in targets] or [(signal, "NONE", "", "", "", "", "")]
    interval = "not known" if found.metric_interval_s is None else seconds(found.metric_interval_s)
    sampler = " ".join(filter(None, (found.sampler, found.sampler_argument))) or "see the file"
    return [
        f"set by the {found.source}; service.name: {found.service_name or 'not set'}",
        f"interval of metrics: {interval}; sampler of traces: {sampler}",
        "",
        *wrapped_table(rows),
    ]


_YES_NO: dict[bool | None, str] = {True: "yes", False: "NO", None: "not tried"}


def _row(target: Target) -> tuple[str, ...]:
    name = target.exporter if target.installed else f"{target.exporter} (NOT INSTALLED)"
    if target.protocol is None:
        return target.signal, name, "", "", "", "", ""
    return (
        target.signal,
        name,
        "yes" if target.secure else "no",
        ", ".join(target.headers) or "none",
        "-" if target.timeout_s is None else seconds(target.timeout_s),
        _YES_NO[target.reachable],
        target.endpoint or "",
    )


PART = Part("exporters", "Exporters", look, tell)
