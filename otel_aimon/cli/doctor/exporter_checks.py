"""What is wrong with exporters: those that are missing, and how they are set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.cli.doctor.endpoint_checks import Judgement, grouped, judged
from otel_aimon.cli.doctor.endpoints import PORTS
from otel_aimon.cli.doctor.exporters import ENVIRONMENT, SIGNALS, Target
from otel_aimon.cli.doctor.findings import Problem, Seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.cli.doctor.endpoints import Address

_LOST = {
    "traces": "spans",
    "metrics": "metrics",
    "logs": "log records and the events of otel-aimon (alerts)",
}
_PACKAGES = {
    "otlp_proto_grpc": "opentelemetry-exporter-otlp-proto-grpc",
    "otlp_proto_http": "opentelemetry-exporter-otlp-proto-http",
    "prometheus": "opentelemetry-exporter-prometheus",
    "zipkin": "opentelemetry-exporter-zipkin",
}
_LONG_INTERVAL_S, _SHORT_INTERVAL_S, _LONG_TIMEOUT_S = 120.0, 1.0, 600.0
_REPLACED_BY_A_FILE = {
    *(f"OTEL_{signal.upper()}_EXPORTER" for signal in SIGNALS),
    "OTEL_TRACES_SAMPLER",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_SERVICE_NAME",
}
_NO_SPANS = {"always_off", "parentbased_always_off"}


def every_signal_has_an_exporter(seen: Seen) -> Iterator[Problem]:
    """A signal without one is dropped in the process."""
    missing = [signal for signal in SIGNALS if not seen.exporters.of(signal)]
    foreign = seen.installation.foreign_distro
    unset = [signal for signal in missing if f"OTEL_{signal.upper()}_EXPORTER" not in seen.environ]
    if unset and foreign is not None and seen.exporters.source == ENVIRONMENT:
        yield Problem(
            "info",
            f"No variable sets an exporter of {', '.join(unset)}; {foreign} decides where they go.",
            "See its documentation; or set the variables.",
        )
        missing = [signal for signal in missing if signal not in unset]
    if len(missing) == len(SIGNALS):
        yield Problem(
            "error",
            "No signal has an exporter: all telemetry is dropped in the process.",
            "Set OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER and OTEL_LOGS_EXPORTER to otlp (the defaults of "
            "opentelemetry-distro)."
            if seen.exporters.source == ENVIRONMENT
            else "Add tracer_provider, meter_provider and logger_provider with exporters to the file.",
        )
        return
    for signal in missing:
        yield Problem(
            "warning",
            f"No exporter of {signal}: {_LOST[signal]} are dropped in the process.",
            f"Set OTEL_{signal.upper()}_EXPORTER=otlp, or leave it unset."
            if seen.exporters.source == ENVIRONMENT
            else f"Add an exporter of {signal} to the file.",
        )


def exporters_are_installed(seen: Seen) -> Iterator[Problem]:
    """One that is not installed stops the set-up of the whole SDK."""
    for exporter, signals in grouped(
        (target for target in seen.exporters.targets if not target.installed), lambda target: target.exporter
    ):
        protocol = next(target.protocol for target in seen.exporters.targets if target.exporter == exporter)
        if protocol is not None and protocol not in PORTS:
            what = f"The protocol {protocol} of OTLP ({signals}) is none that Python's exporters speak"
            remedy = f"Set OTEL_EXPORTER_OTLP_PROTOCOL to one of {', '.join(PORTS)}."
        elif exporter == "none":
            what = f"The exporter none ({signals}) stands beside others"
            remedy = "Leave none out; it is accepted only alone."
        else:
            what = f"The exporter {exporter} ({signals}) is not installed"
            package = _PACKAGES.get(exporter)
            remedy = (
                f"pip install {package}"
                if package
                else "Correct the name, or install the package that has it."
            )
        yield Problem(
            "error", f"{what}, so OpenTelemetry sets up nothing and all telemetry is dropped.", remedy
        )


def headers_are_well_formed(seen: Seen) -> Iterator[Problem]:
    """A header without = is left out; a space before a token is usually meant as %20."""
    for name in sorted(seen.environ):
        if name.startswith("OTEL_EXPORTER_OTLP_") and name.endswith("HEADERS"):
            wrong = [pair for pair in seen.environ[name].split(",") if pair.strip() and "=" not in pair]
            if wrong:
                yield Problem(
                    "warning",
                    f"{name}: {len(wrong)} of its entries have no = and are not sent.",
                    "Write name=value,name=value; a comma in a value is %2C.",
                )


def variables_are_heeded(seen: Seen) -> Iterator[Problem]:
    """A declarative file replaces the variables; those that it does not name itself do nothing."""
    ignored = [
        name
        for name in sorted(seen.environ)
        if name.startswith("OTEL_EXPORTER_OTLP_") or name in _REPLACED_BY_A_FILE
    ]
    if seen.exporters.source != ENVIRONMENT and ignored:
        yield Problem(
            "info",
            f"OTEL_CONFIG_FILE is set; unless the file refers to them, these are not read: {', '.join(ignored)}.",
            "Set in the file what they shall say.",
        )


def times_are_plausible(seen: Seen) -> Iterator[Problem]:
    """The interval of metrics is in milliseconds, timeouts are in seconds."""
    interval = seen.exporters.metric_interval_s
    raw = seen.environ.get("OTEL_METRIC_EXPORT_INTERVAL")
    if interval is None and raw is not None and seen.exporters.source == ENVIRONMENT:
        yield Problem(
            "warning",
            f"OTEL_METRIC_EXPORT_INTERVAL={raw} is no number; 60000 is used.",
            "Set it to milliseconds.",
        )
    elif interval is not None and seen.exporters.of("metrics"):
        if interval > _LONG_INTERVAL_S:
            yield Problem(
                "info",
                f"Metrics are exported every {interval:g} s: dashboards and alerts lag by as much.",
                "Set OTEL_METRIC_EXPORT_INTERVAL (milliseconds) to 60000 or less.",
            )
        elif interval < _SHORT_INTERVAL_S:
            yield Problem(
                "warning",
                f"Metrics are exported every {interval * 1000:g} ms.",
                "OTEL_METRIC_EXPORT_INTERVAL is in milliseconds: 60000 is a minute.",
            )

    def judge(target: Target, _found: Address) -> Iterator[Judgement]:
        if target.timeout_s is None or target.timeout_s > _LONG_TIMEOUT_S:
            shown = "is no number" if target.timeout_s is None else f"is {target.timeout_s:g} s"
            yield "warning", f"the timeout of an export {shown}", "OTEL_EXPORTER_OTLP_TIMEOUT is in seconds."

    yield from judged(seen, judge)


def spans_are_sampled(seen: Seen) -> Iterator[Problem]:
    """A sampler that drops everything leaves metrics and no traces."""
    sampler, argument = seen.exporters.sampler, seen.exporters.sampler_argument
    nothing = sampler in _NO_SPANS or (
        sampler in {"traceidratio", "parentbased_traceidratio"} and _is_zero(argument)
    )
    if nothing:
        yield Problem(
            "warning",
            f"The sampler {sampler} drops all spans; metrics are complete nevertheless.",
            "Unset OTEL_TRACES_SAMPLER, or set a ratio in OTEL_TRACES_SAMPLER_ARG.",
        )


def the_service_has_a_name(seen: Seen) -> Iterator[Problem]:
    """Data of unknown_service is there and is not found."""
    if seen.exporters.service_name is None and seen.exporters.targets:
        yield Problem(
            "info",
            "The service has no name: its data is that of unknown_service.",
            "Set OTEL_SERVICE_NAME.",
        )


def data_leaves_the_machine(seen: Seen) -> Iterator[Problem]:
    """The console is for a first try."""
    console = [target.signal for target in seen.exporters.targets if target.exporter == "console"]
    if console:
        yield Problem(
            "info",
            f"{', '.join(console)}: printed on the console of the service.",
            "Set the exporter to otlp to send them.",
        )


def _is_zero(text: str | None) -> bool:
    try:
        return float(text or "1") == 0.0
    except ValueError:
        return False


CHECKS = (
    every_signal_has_an_exporter,
    exporters_are_installed,
    headers_are_well_formed,
    variables_are_heeded,
    times_are_plausible,
    spans_are_sampled,
    the_service_has_a_name,
    data_leaves_the_machine,
)
