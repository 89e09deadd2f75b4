"""``otel-aimon demo`` as users run it, and everything that can stop it."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_aimon import semconv
from otel_aimon.cli import demo, main
from otel_aimon.cli.receiver import Receiver
from otel_aimon.version import __version__
from tests.cli import services
from tests.support.telemetry import wait_until

EXPONENTIAL = "base2_exponential_bucket_histogram"
COMMAND = str(Path(sys.executable).with_name("otel-aimon"))

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")

Serve = Callable[[str], None]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Puts another service in the place of the example."""

    def put(source: str) -> None:
        (tmp_path / "service.py").write_text(source)
        monkeypatch.setattr(demo, "service_folder", lambda: tmp_path)

    return put


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(port: int) -> list[str]:
    """Command lines of processes that serve on ``port``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "uvicorn" in words and str(port) in words:
            found.append(" ".join(words))
    return found


class TestWhatArrives:
    def test_as_json_in_a_process_of_its_own(self, free_port: int) -> None:
        done = subprocess.run(
            [COMMAND, "demo", "--seconds", "4", "--json", "--port", str(free_port)],
            capture_output=True,
            text=True,
            # Settings of the user's that would send everything elsewhere, or in a shape that the report
            # cannot add up, do not reach the service.
            env={
                **os.environ,
                "OTEL_TRACES_EXPORTER": "none",
                "OTEL_TRACES_SAMPLER": "always_off",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9",
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": EXPONENTIAL,
                "OTEL_SDK_DISABLED": "true",
                "HTTP_PROXY": "http://127.0.0.1:9",
                "http_proxy": "http://127.0.0.1:9",
            },
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert list(result) == [
            "otel_aimon", "seconds", "ok", "requests", "traces", "metrics", "events", "alerts", "hints", "verdict"
        ]  # fmt: skip
        assert (result["otel_aimon"], result["seconds"], result["ok"]) == (__version__, 4.0, True)
        self._check_requests(result)
        self._check_traces(result)
        self._check_metrics(result)
        assert "100% of 4 s" in done.stderr
        assert f"on port {free_port}" in done.stderr
        assert processes_of(free_port) == []

    @staticmethod
    def _check_requests(result: dict[str, Any]) -> None:
        requests = {each["kind"]: each for each in result["requests"]}
        assert list(requests) == ["scikit-learn", "ONNX", "text stream"]
        for each in requests.values():
            assert each["sent"] == each["completed"] + each["failed"] + each["abandoned"]
            assert 0 < each["p50_s"] <= each["p95_s"]
            assert each["unanswered"] == 0
        assert requests["scikit-learn"]["failed"] > 0
        assert requests["ONNX"]["failed"] > 0
        assert requests["text stream"]["abandoned"] > 0
        sent = sum(each["sent"] for each in requests.values())
        verdict = result["verdict"]
        assert (verdict["ok"], verdict["sent"], verdict["spans"], verdict["metrics"]) == (
            True,
            sent,
            sent,
            sent,
        )
        checks = {
            each["check"]: (each["clients"], each["spans"], each["metrics"]) for each in verdict["checks"]
        }
        for kind, ending in (
            ("scikit-learn", "completed"), ("scikit-learn", "failed"), ("ONNX", "completed"), ("ONNX", "failed"),
            ("text stream", "completed"), ("text stream", "abandoned"),
        ):  # fmt: skip
            assert checks.pop(f"{kind}, {ending}") == (requests[kind][ending],) * 3
        assert sorted(checks) == ["output tokens of all streams", "output tokens of completed streams"]

    @staticmethod
    def _check_traces(result: dict[str, Any]) -> None:
        def flat(tree: dict[str, Any]) -> list[dict[str, Any]]:
            return [tree, *(span for child in tree["children"] for span in flat(child))]

        spans = [span for tree in result["traces"] for span in flat(tree)]
        ours = [span for span in spans if semconv.AIMON_FRAMEWORK in span["attributes"]]
        shown = [
            (
                span["name"],
                span["attributes"][semconv.AIMON_FRAMEWORK],
                span["attributes"].get(semconv.ERROR_TYPE),
                span["failed"],
            )
            for span in ours
        ]
        refused = "onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument"
        assert shown == [
            ("predict Pipeline(LogisticRegression)", "sklearn", None, False),
            ("predict Pipeline(LogisticRegression)", "sklearn", "ValueError", True),
            ("run digits", "onnxruntime", None, False),
            ("run digits", "onnxruntime", refused, True),
            ("text_completion word-4gram", "manual", None, False),
            ("text_completion word-4gram", "manual", "cancelled", False),
        ]
        assert all(span["duration_s"] > 0 for span in ours)

    @staticmethod
    def _check_metrics(result: dict[str, Any]) -> None:
        names = {point["metric"] for point in result["metrics"]}
        engines_only = {
            semconv.INFERENCE_QUEUE_SIZE, semconv.INFERENCE_QUEUE_DURATION, semconv.INFERENCE_STAGE_DURATION,
            semconv.CLIENT_OPERATION_DURATION,
        }  # fmt: skip
        missing = {metric.name for metric in semconv.METRICS} - names
        assert {metric.name for metric in engines_only} <= missing
        assert {semconv.INFERENCE_DURATION.name, semconv.SERVER_TIME_TO_FIRST_TOKEN.name} <= names
        active = [
            point["value"] for point in result["metrics"] if point["metric"] == "aimon.inference.active"
        ]
        assert active == [0, 0, 0]
        durations = [
            point for point in result["metrics"] if point["metric"] == semconv.INFERENCE_DURATION.name
        ]
        assert all(point["p50_at_most"] > 0 for point in durations)

    def test_as_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--seconds", "1", "--protocol", "http/protobuf"]) == 0
        out = capsys.readouterr().out
        assert all(len(line) <= 110 for line in out.splitlines())
        headings = [line for line in out.splitlines() if line and not line.startswith(" ")]
        assert [heading.split(":")[0] for heading in headings] == [
            "Sent by the clients", "Traces", "Metrics", "Log events", "Alerts", "Hints", "Is it all there?"
        ]  # fmt: skip
        assert "      predict Pipeline(LogisticRegression)" in out
        assert "…" not in out  # Nothing of the demo's own is cut.
        assert "NOT EQUAL" not in out
        assert out.splitlines()[-1].startswith("  OK: ")

    def test_to_a_backend_of_the_users(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", EXPONENTIAL)
        with Receiver() as backend:
            assert main(["demo", "--seconds", "1", "--endpoint", backend.grpc_endpoint]) == 0
        out = capsys.readouterr().out
        requests = [span for span in backend.received.spans if span.scope == semconv.SCOPE]
        assert {span.resource["service.name"] for span in requests} == {"otel-aimon-demo"}
        # The columns of the first table: kind, sent, …
        sent = [int(line[14:20]) for line in out.splitlines()[2:5]]
        assert sum(sent) == len(requests) > 0
        # What its user set for that backend reaches it.
        kinds = {
            point.kind for point in backend.received.points if point.metric == "aimon.inference.duration"
        }
        assert kinds == {"exponential_histogram"}
        assert "service.name = otel-aimon-demo" in out
        assert backend.grpc_endpoint in out

    def test_to_a_backend_of_the_users_as_json(
        self, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        serve(services.answering())
        with Receiver() as backend:
            endpoint = backend.http_endpoint
            arguments = ["--protocol", "http/protobuf", "--endpoint", endpoint, "--json"]
            assert main(["demo", "--seconds", "1", *arguments]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["ok"], result["service"]) == (True, "otel-aimon-demo")
        assert (result["endpoint"], result["protocol"]) == (endpoint, "http/protobuf")
        assert all(each["sent"] > 0 for each in result["requests"])


class TestWhatStopsIt:
    def stopped(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        """One sentence on stderr, after the progress, and nothing on stdout."""
        assert main(["demo", "--seconds", "1", *arguments]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        last = captured.err.splitlines()[-1]
        assert last.startswith("otel-aimon demo: ")
        return last

    def test_a_missing_extra(self) -> None:
        code = (
            "import sys; sys.modules['fastapi'] = sys.modules['onnx'] = None\n"
            "from otel_aimon.cli import main; sys.exit(main(['demo']))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr == (
            "otel-aimon demo: the demo needs fastapi, onnx, which are not installed; "
            'run: pip install "otel-aimon[demo]"\n'
        )

    def test_one_missing_package(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(demo, "_NEEDS", ("json", "no_such_package", "no_such.package"))
        assert "needs no_such_package, no_such.package, which are" in self.stopped(capsys)
        monkeypatch.setattr(demo, "_NEEDS", ("no_such_package",))
        assert "needs no_such_package, which is not installed" in self.stopped(capsys)

    def test_no_launcher(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        monkeypatch.setenv("PATH", "/nowhere")
        assert "opentelemetry-instrument is not installed" in self.stopped(capsys)

    def test_a_port_in_use(self, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            assert self.stopped(capsys, "--port", str(port)) == (
                f"otel-aimon demo: port {port} cannot be used (Address already in use); choose another with --port"
            )

    def test_a_backend_that_is_not_there(self, capsys: pytest.CaptureFixture[str], free_port: int) -> None:
        said = self.stopped(capsys, "--endpoint", f"http://127.0.0.1:{free_port}")
        assert f"nothing answers at http://127.0.0.1:{free_port} (" in said

    @pytest.mark.parametrize("endpoint", ["localhost:4317", "nonsense", "http://[", "http://host:port"])
    def test_an_endpoint_that_is_no_url(self, endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert f"--endpoint {endpoint} is not a URL such as http://localhost:4317" in self.stopped(
            capsys, "--endpoint", endpoint
        )

    @pytest.mark.parametrize(
        ("endpoint", "protocol", "port"),
        [
            ("http://127.0.0.1", "grpc", 4317),
            ("http://127.0.0.1", "http/protobuf", 80),
            ("https://127.0.0.1", "grpc", 443),
        ],
    )
    def test_the_port_of_an_endpoint_without_one(
        self, endpoint: str, protocol: str, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        monkeypatch.setattr(
            socket, "create_connection", lambda address, _timeout: asked.append(address) or io.BytesIO()
        )
        demo._check_endpoint(endpoint, protocol)
        assert asked == [("127.0.0.1", port)]

    def test_a_service_that_dies_at_its_start(self, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
        serve(services.DIES_AT_ITS_START)
        said = self.stopped(capsys)
        assert "the service ended at its start with status 1: " in said
        assert said.endswith("RuntimeError: the model file is missing")

    def test_a_service_that_never_answers(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(demo, "_START_SECONDS", 0.2)
        serve("import time; time.sleep(60)")
        assert "did not answer within 0.2 s: it said nothing" in self.stopped(capsys)

    def test_a_service_that_dies_under_load(self, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
        serve(services.answering(at_a_request="print('out of memory', flush=True); os._exit(9)"))
        assert self.stopped(capsys).endswith("the service ended under load with status 9: out of memory")

    def test_a_service_that_does_not_stop(
        self,
        serve: Serve,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        free_port: int,
    ) -> None:
        monkeypatch.setattr(demo, "_STOP_SECONDS", 0.2)
        serve(services.answering(at_the_end="time.sleep(60)"))
        assert main(["demo", "--seconds", "1", "--port", str(free_port)]) == 1
        assert "FAILED: " in capsys.readouterr().out
        assert processes_of(free_port) == []

    def test_requests_that_are_in_no_span(self, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
        serve(services.answering())
        assert main(["demo", "--seconds", "1"]) == 1
        captured = capsys.readouterr()
        assert "NOT EQUAL" in captured.out
        assert "what was sent and what arrived differ" in captured.err

    def test_a_backend_that_refuses(self, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
        serve(services.answering(at_the_end="print('Failed to export traces to backend', flush=True)"))
        with Receiver() as backend:
            assert main(["demo", "--seconds", "1", "--endpoint", backend.grpc_endpoint]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"otel-aimon demo: the service could not deliver everything to {backend.grpc_endpoint}: "
            "Failed to export traces to backend"
        )

    def test_output_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "service.py").write_text(services.answering())
        code = (
            "import pathlib, sys; from otel_aimon.cli import demo, main\n"
            f"demo.service_folder = lambda: pathlib.Path({str(tmp_path)!r})\n"
            "sys.exit(main(['demo', '--seconds', '1']))"
        )
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert "otel-aimon demo: the output cannot be written (No space left on device)" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.returncode == 1

    @pytest.mark.parametrize(
        ("stop", "at_a_request"),
        [
            (signal.SIGINT, "pass"),
            (signal.SIGTERM, "pass"),
            (signal.SIGHUP, "pass"),
            # A service that hangs does not make its user wait for its answers.
            (signal.SIGINT, "time.sleep(600)"),
        ],
    )
    def test_a_signal_leaves_no_process_behind(
        self, stop: signal.Signals, at_a_request: str, tmp_path: Path, free_port: int
    ) -> None:
        (tmp_path / "service.py").write_text(services.answering(at_a_request))
        code = (
            "import pathlib, signal, sys; from otel_aimon.cli import demo, main\n"
            # As in a terminal, whatever the runner of the tests ignores.
            "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "demo._STOP_SECONDS = 1.0\n"
            f"demo.service_folder = lambda: pathlib.Path({str(tmp_path)!r})\n"
            f"sys.exit(main(['demo', '--seconds', '60', '--port', '{free_port}']))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            wait_until(lambda: listening(free_port), 60)
            time.sleep(0.3)
            process.send_signal(stop)
            out, err = process.communicate(timeout=50)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 130
        assert (out, err.splitlines()[-1]) == ("", "otel-aimon demo: stopped")
        assert processes_of(free_port) == []


def test_the_example_service_is_found_in_a_package_and_in_a_clone(tmp_path: Path) -> None:
    module = tmp_path / "otel_aimon" / "cli"
    with pytest.raises(Exception, match="the example service is missing from this installation"):
        demo.service_folder(module)
    clone, package = tmp_path / "examples", module / "_service"
    for folder in (clone, package):
        folder.mkdir(parents=True)
        (folder / "service.py").touch()
        assert demo.service_folder(module) == folder


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = demo._Progress(2.0)
    progress(1.0, 10)
    progress(2.0, 20)
    assert (
        capsys.readouterr().err == f"\r{'█' * 15}{'░' * 15}  50%  10 requests\r{'█' * 30} 100%  20 requests\n"
    )
