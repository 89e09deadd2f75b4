"""Where each signal goes, and the mistakes on the way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from otel_aimon.cli.doctor import endpoint_checks, endpoints, exporter_checks, exporters
from otel_aimon.cli.doctor.endpoints import Address, reach
from otel_aimon.cli.doctor.exporters import Exporters, Target
from otel_aimon.cli.doctor.findings import masked
from tests.cli.doctoring import closed_port, environment, listener, problems, remedies, seen

CHECKS = (*endpoint_checks.CHECKS, *exporter_checks.CHECKS)
NAMED = {"OTEL_SERVICE_NAME": "shop"}
HTTP = {**NAMED, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
ALL = "traces, metrics, logs"
NOTHING = "so OpenTelemetry sets up nothing and all telemetry is dropped."


def exported(**variables: str) -> Exporters:
    return seen(variables).exporters


def found(**variables: str) -> list[tuple[str, str, str]]:
    return problems(CHECKS, seen(variables))


class TestWhatTheEnvironmentResolvesTo:
    def test_the_defaults_of_the_distro(self) -> None:
        resolved = exported()
        assert resolved == Exporters(
            "environment",
            tuple(
                Target(
                    signal, "otlp_proto_grpc", True, "grpc", "http://localhost:4317", "default",
                    Address("http", "localhost", 4317, "", False), False, (), 10.0,
                )
                for signal in ("traces", "metrics", "logs")
            ),
            60.0,
            "parentbased_always_on",
            None,
            None,
        )  # fmt: skip

    def test_the_variables_of_a_signal_go_before_the_general_ones(self) -> None:
        resolved = exported(
            OTEL_EXPORTER_OTLP_ENDPOINT="https://collector:4317",
            OTEL_EXPORTER_OTLP_HEADERS="api-key=s3cret,tenant=a",
            OTEL_EXPORTER_OTLP_TIMEOUT="3",
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://traces.example/v1/traces",
            OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_TRACES_HEADERS="authorization=Bearer%20s3cret",
            OTEL_METRICS_EXPORTER="console",
            OTEL_LOGS_EXPORTER="none",
            OTEL_METRIC_EXPORT_INTERVAL="15000",
            OTEL_TRACES_SAMPLER="traceidratio",
            OTEL_TRACES_SAMPLER_ARG="0.1",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test,service.name=shop",
        )
        traces, metrics = resolved.targets
        assert traces == Target(
            "traces", "otlp_proto_http", True, "http/protobuf", "https://traces.example/v1/traces",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", Address("https", "traces.example", 443, "/v1/traces", False),
            True, ("authorization",), 3.0,
        )  # fmt: skip
        assert metrics == Target("metrics", "console", True)
        assert (resolved.metric_interval_s, resolved.sampler, resolved.sampler_argument) == (
            15.0, "traceidratio", "0.1",
        )  # fmt: skip
        assert resolved.service_name == "shop"
        assert "s3cret" not in str(resolved)

    def test_the_general_endpoint_of_http_gets_the_paths_appended(self) -> None:
        resolved = exported(**HTTP, OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318/")
        assert [target.endpoint for target in resolved.targets] == [
            "http://collector:4318/v1/traces",
            "http://collector:4318/v1/metrics",
            "http://collector:4318/v1/logs",
        ]

    def test_an_exporter_that_is_set_to_nothing_is_none(self) -> None:
        assert [each.signal for each in exported(OTEL_TRACES_EXPORTER="").targets] == ["metrics", "logs"]

    @pytest.mark.parametrize(
        ("endpoint", "protocol", "insecure", "secure"),
        [
            ("http://c:4317", "grpc", None, False),
            ("https://c:4317", "grpc", None, True),
            ("https://c:4317", "grpc", True, True),
            ("http://c:4317", "grpc", False, True),
            ("c:4317", "grpc", None, True),
            ("c:4317", "grpc", True, False),
            ("http://c:4318", "http/protobuf", False, False),
            ("https://c:4318", "http/protobuf", None, True),
        ],
    )
    def test_tls(self, endpoint: str, protocol: str, insecure: bool | None, secure: bool) -> None:
        where = endpoints.address(endpoint, protocol)
        assert exporters.secure(where, protocol, insecure) is secure

    @pytest.mark.parametrize(
        ("endpoint", "protocol", "read"),
        [
            ("collector", "grpc", Address("", "collector", 443, "", False)),
            ("http://collector", "http/protobuf", Address("http", "collector", 80, "", False)),
            ("http://[::1]:4317/", "grpc", Address("http", "::1", 4317, "", False)),
            ("https://u:p@c:1/x", "grpc", Address("https", "c", 1, "/x", True)),
            ("http://c:port", "grpc", Address("http", "", None, "", False)),
            ("unix:/run/otel.sock", "grpc", Address("unix", "", None, "", False)),
        ],
    )
    def test_addresses(self, endpoint: str, protocol: str, read: Address) -> None:
        assert endpoints.address(endpoint, protocol) == read


class TestMistakes:
    def test_none_with_an_ordinary_environment(self) -> None:
        assert found(**NAMED) == []
        assert found(**HTTP, OTEL_EXPORTER_OTLP_ENDPOINT="https://collector.example") == []

    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
                ("warning", "protocols_suit_the_ports",
                 f"{ALL}: http://c:4318 has the usual port of OTLP over http/protobuf, and grpc is spoken."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"},
                ("warning", "protocols_suit_the_ports",
                 f"{ALL}: http://c:4317 has the usual port of OTLP over grpc, and http/protobuf is spoken."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": "c:4318"},
                ("error", "endpoints_are_well_formed",
                 f"{ALL}: c:4318 does not begin with http:// or https://, so nothing can be sent."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"},
                ("warning", "endpoints_are_well_formed", f"{ALL}: c:4317 has no scheme, so TLS is used."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"},
                ("warning", "endpoints_are_well_formed", f"{ALL}: http://c names no port, and gRPC takes 443."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317/otlp"},
                ("warning", "paths_are_those_of_otlp",
                 f"{ALL}: the path /otlp of http://c:4317/otlp is ignored by gRPC."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                 "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/v1/traces"},
                ("warning", "paths_are_those_of_otlp",
                 f"{ALL}: OTEL_EXPORTER_OTLP_ENDPOINT ends in /v1/traces, and the path of each signal is appended to it."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                 "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"},
                ("warning", "paths_are_those_of_otlp",
                 "traces: http://c:4318 does not end in /v1/traces, and is used as it is."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret,Bearer s3cret"},
                ("warning", "headers_are_well_formed",
                 "OTEL_EXPORTER_OTLP_HEADERS: 1 of its entries have no = and are not sent."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:4317", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"},
                ("error", "certificates_can_be_read", f"{ALL}: the certificate /no/such.pem cannot be read."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
                ("error", "exporters_are_installed",
                 f"The protocol http/json of OTLP ({ALL}) is none that Python's exporters speak, {NOTHING}"),
            ),
            (
                {"OTEL_METRICS_EXPORTER": "acme"},
                ("error", "exporters_are_installed",
                 f"The exporter acme (metrics) is not installed, {NOTHING}"),
            ),
            (
                {"OTEL_LOGS_EXPORTER": "otlp,none"},
                ("error", "exporters_are_installed",
                 f"The exporter none (logs) stands beside others, {NOTHING}"),
            ),
            (
                {"OTEL_LOGS_EXPORTER": "none"},
                ("warning", "every_signal_has_an_exporter",
                 "No exporter of logs: log records and the events of otel-aimon (alerts) are dropped in the process."),
            ),
            (
                {"OTEL_TRACES_EXPORTER": "None "},
                ("warning", "every_signal_has_an_exporter",
                 "No exporter of traces: spans are dropped in the process."),
            ),
            (
                {"OTEL_TRACES_EXPORTER": "console"},
                ("info", "data_leaves_the_machine", "traces: printed on the console of the service."),
            ),
            (
                {"OTEL_METRIC_EXPORT_INTERVAL": "10"},
                ("warning", "times_are_plausible", "Metrics are exported every 10 ms."),
            ),
            (
                {"OTEL_METRIC_EXPORT_INTERVAL": "600000"},
                ("info", "times_are_plausible",
                 "Metrics are exported every 600 s: dashboards and alerts lag by as much."),
            ),
            (
                {"OTEL_METRIC_EXPORT_INTERVAL": "soon"},
                ("warning", "times_are_plausible", "OTEL_METRIC_EXPORT_INTERVAL=soon is no number; 60000 is used."),
            ),
            (
                {"OTEL_EXPORTER_OTLP_TIMEOUT": "10000"},
                ("warning", "times_are_plausible", f"{ALL}: the timeout of an export is 10000 s."),
            ),
            (
                {"OTEL_TRACES_SAMPLER": "always_off"},
                ("warning", "spans_are_sampled",
                 "The sampler always_off drops all spans; metrics are complete nevertheless."),
            ),
            (
                {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.0"},
                ("warning", "spans_are_sampled",
                 "The sampler traceidratio drops all spans; metrics are complete nevertheless."),
            ),
        ],
        ids=lambda value: "+".join(value.values())[:40] if isinstance(value, dict) else "",
    )  # fmt: skip
    def test_each_is_found_alone(self, variables: dict[str, str], expected: tuple[str, str, str]) -> None:
        assert found(**NAMED, **variables) == [expected]

    def test_nothing_is_exported_at_all(self) -> None:
        nowhere = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
        assert found(**nowhere) == [
            (
                "error",
                "every_signal_has_an_exporter",
                "No signal has an exporter: all telemetry is dropped in the process.",
            )
        ]

    def test_the_service_has_no_name(self) -> None:
        assert found() == [
            (
                "info",
                "the_service_has_a_name",
                "The service has no name: its data is that of unknown_service.",
            )
        ]

    def test_the_remedy_of_an_exporter_that_is_not_installed(self) -> None:
        looked = seen({**NAMED, "OTEL_METRICS_EXPORTER": "zipkin"})
        assert remedies(exporter_checks.CHECKS, looked) == ["pip install opentelemetry-exporter-zipkin"]

    def test_a_proxy_on_the_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", "http://user:s3cret@proxy:3128")
        expected = [
            (
                "warning",
                "proxies_are_meant",
                "Exports to localhost go through the proxy http://***@proxy:3128.",
            )
        ]
        assert found(**NAMED) == expected
        assert found(**HTTP) == [], "HTTP's own proxy is another variable"
        monkeypatch.setenv("no_proxy", "localhost")
        assert found(**NAMED) == []


class TestReachability:
    def test_of_each_place_once(self) -> None:
        with listener() as port:
            closed = closed_port()
            found = reach([("127.0.0.1", port), ("127.0.0.1", closed), ("127.0.0.1", port)])
        assert found == {
            ("127.0.0.1", port): None,
            ("127.0.0.1", closed): "connection refused: nothing listens there",
        }
        assert [each.name for each in threading.enumerate() if each.name == "doctor-connect"] == []

    def test_what_is_no_name(self) -> None:
        name = "a" * 64 + ".invalid"
        (why,) = reach([(name, 4317)]).values()
        assert str(why).startswith("not an address (Unicode")

    def test_a_name_that_does_not_exist(self) -> None:
        assert reach([("no-such-host.invalid", 4317)])["no-such-host.invalid", 4317] in {
            "the name cannot be resolved",
            "no answer within 1 s",
        }

    def test_what_cannot_be_reached_is_one_problem(self) -> None:
        looked = seen(NAMED)
        looked.offline = False
        looked.environ = environment(**HTTP, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{closed_port()}")
        looked.exporters = exporters.look(looked)
        port = looked.exporters.targets[0].address.port  # type: ignore[union-attr]
        assert [target.reachable for target in looked.exporters.targets] == [False] * 3
        assert problems(CHECKS, looked) == [
            (
                "error",
                "endpoints_can_be_reached",
                f"127.0.0.1:{port} ({ALL}) cannot be reached: connection refused: nothing listens there.",
            )
        ]
        assert "localhost is the container itself" in remedies(endpoint_checks.CHECKS, looked)[0]


class TestADeclarativeFile:
    FILE = """
file_format: "1.0"
resource: {attributes: [{name: service.name, value: shop}]}
tracer_provider:
  processors:
    - batch: {exporter: {otlp_grpc: {endpoint: "http://c:4318", headers: [{name: api-key, value: s3cret}]}}}
    - simple: {exporter: {console: {}}}
meter_provider:
  readers:
    - periodic: {interval: 5000, exporter: {otlp_http: {headers_list: "tenant=s3cret", timeout: 2000}}}
"""

    def test_replaces_the_variables(self, tmp_path: Path) -> None:
        pytest.importorskip("opentelemetry.configuration")
        (tmp_path / "otel.yaml").write_text(self.FILE)
        looked = seen({"OTEL_CONFIG_FILE": str(tmp_path / "otel.yaml"), "OTEL_SERVICE_NAME": "other"})
        assert looked.exporters == Exporters(
            "declarative file",
            (
                Target(
                    "traces", "otlp_proto_grpc", True, "grpc", "http://c:4318", "declarative file",
                    Address("http", "c", 4318, "", False), False, ("api-key",), 10.0,
                ),
                Target("traces", "console", True),
                Target(
                    "metrics", "otlp_proto_http", True, "http/protobuf", "http://localhost:4318/v1/metrics", "default",
                    Address("http", "localhost", 4318, "/v1/metrics", False), False, ("tenant",), 2.0,
                ),
            ),
            5.0,
            None,
            None,
            "shop",
        )  # fmt: skip
        assert problems(CHECKS, looked) == [
            (
                "warning",
                "protocols_suit_the_ports",
                "traces: http://c:4318 has the usual port of OTLP over http/protobuf, and grpc is spoken.",
            ),
            (
                "warning",
                "every_signal_has_an_exporter",
                "No exporter of logs: log records and the events of otel-aimon (alerts) are dropped in the process.",
            ),
            (
                "info",
                "variables_are_heeded",
                "OTEL_CONFIG_FILE is set; unless the file refers to them, these are not read: OTEL_SERVICE_NAME.",
            ),
            ("info", "data_leaves_the_machine", "traces: printed on the console of the service."),
        ]

    def test_that_cannot_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "otel.yaml").write_text("file_format: [")
        looked = seen({"OTEL_CONFIG_FILE": str(tmp_path / "otel.yaml")})
        assert looked.exporters.targets == ()
        assert [severity for severity, _, _ in problems(CHECKS, looked)] == ["error"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://collector:4317/v1", "http://collector:4317/v1"),
        ("https://user:s3cret@c:1/p?token=s3cret#s3cret", "https://***@c:1/p?***"),
        ("user:s3cret@c:4317", "***@c:4317"),
        ("c:4317?token=s3cret", "c:4317?***"),
        ("http://a:s3@cret@c/", "http://***@c/"),
    ],
)
def test_credentials_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown
