"""``otel-aimon demo``: a real service under ``opentelemetry-instrument``, a load, and what arrived."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from otel_aimon.cli import CommandError, report, show
from otel_aimon.cli.alert_report import alert_line
from otel_aimon.cli.hint_report import hint_line
from otel_aimon.cli.load import Load
from otel_aimon.cli.receiver import LOOPBACK, Received, Receiver
from otel_aimon.cli.sections import Evidence, Report, Section
from otel_aimon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from typing_extensions import Self

    from otel_aimon.cli.receiver import Event

SERVICE_NAME = "otel-aimon-demo"
PROTOCOLS = {"grpc": 4317, "http/protobuf": 4318}
"""OTLP transport → its usual port."""

_NEEDS = ("fastapi", "uvicorn", "sklearn", "onnx", "onnxruntime", "yaml")
_START_SECONDS = 90.0
_STOP_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
_EXPORT_INTERVAL_MS = "2000"
_LOGS_DELAY_MS = "250"
_BAR = 30
_CLEAR_LINE = "\r\x1b[K"
_LAST_LINES = 4

_SWITCHES = (
    "OTEL_CONFIG_FILE",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    *(
        f"OTEL_EXPORTER_OTLP_{signal_}_{what}"
        for signal_ in ("TRACES", "METRICS", "LOGS")
        for what in ("ENDPOINT", "PROTOCOL")
    ),
)
"""Variables of the user's that would send the demo's telemetry elsewhere, or a part of it nowhere."""

_ALERTS = {
    "OTEL_AIMON_ALERTS": "true",
    "OTEL_AIMON_ALERT_TICK": "0.25",
    "OTEL_AIMON_ALERT_LEARNING": "9",
    "OTEL_AIMON_SAMPLE_INTERVAL": "1",
    "OTEL_AIMON_EVENT_LOOP_LAG": "true",
}
"""A service learns for a day what is usual, and looks every ten seconds; a viewer has less than a minute."""

_SHAPES = (
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
)
"""Variables that suit the user's backend; the report adds up cumulative metrics and reads their buckets."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``otel-aimon demo``."""
    parser.add_argument(
        "--seconds", type=_duration, default=60.0, help="how long the load lasts (default: 60)"
    )
    parser.add_argument("--endpoint", metavar="URL", help="send to this OTLP endpoint, and say where to look")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="grpc", help="of OTLP (default: grpc)")
    parser.add_argument("--port", type=_port, default=0, help="port of the service (default: a free one)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def _duration(text: str) -> float:
    value = float(text)
    if not 1.0 <= value <= 3600.0:
        raise argparse.ArgumentTypeError("must be between 1 and 3600")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be between 0 and 65535")
    return value


def run(options: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        0 when every request arrived, 1 when one did not.

    Raises:
        CommandError: Something it needs is missing, or the service failed.
        OSError: A socket or the output failed.
    """
    _check_needs()
    launcher, folder, port = _launcher(), service_folder(), _usable_port(options.port)
    with contextlib.ExitStack() as stack:
        if options.endpoint:
            receiver, endpoint = None, options.endpoint
            _check_endpoint(endpoint, options.protocol)
        else:
            receiver = stack.enter_context(Receiver())
            endpoint = receiver.grpc_endpoint if options.protocol == "grpc" else receiver.http_endpoint
        _say(f"Starting the service on port {port}; it sends OTLP ({options.protocol}) to {endpoint}")
        dropped = _SWITCHES if receiver is None else (*_SWITCHES, *_SHAPES)
        environment = _environment(endpoint, options.protocol, dropped, folder)
        service = Service(launcher, folder, port, environment)
        with service:
            service.await_start()
            load = Load(LOOPBACK, port, options.seconds)
            events = receiver.received.events if receiver is not None else []
            load.run(_Progress(options.seconds, events), lambda: not service.running)
            if not service.running:
                raise CommandError(f"the service ended under load {service.ending()}: {service.last_lines()}")
            _say("Stopping the service, so that it flushes")
    if receiver is None:
        return _say_where(load, service, options)
    return _show(report.make(Evidence(load.outcomes, receiver.received, load.faults)), options)


# --- what the demo needs -----------------------------------------------------------------------


def _check_needs() -> None:
    missing = [name for name in _NEEDS if not _installed(name)]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise CommandError(
            f"the demo needs {', '.join(missing)}, which {are} not installed; "
            'run: pip install "otel-aimon[demo]"'
        )


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _launcher() -> str:
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join((beside, os.environ.get("PATH", "")))
    found = shutil.which("opentelemetry-instrument", path=path)
    if found is None:
        raise CommandError(
            "opentelemetry-instrument is not installed; run: pip install opentelemetry-instrumentation"
        )
    return found


def service_folder(here: Path | None = None) -> Path:
    """Where the example service is: inside the installed package, or in the repository beside it.

    Args:
        here: The folder of this module.

    Raises:
        CommandError: It is in neither place.
    """
    here = here or Path(__file__).resolve().parent
    for folder in (here / "_service", here.parent.parent / "examples"):
        if (folder / "service.py").is_file():
            return folder
    raise CommandError("the example service is missing from this installation; reinstall otel-aimon")


def _usable_port(wanted: int) -> int:
    with socket.socket() as probe:
        # As the service does, so that a port which only waits for late packets counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError as error:
            raise CommandError(
                f"port {wanted} cannot be used ({error.strerror}); choose another with --port"
            ) from error
        return int(probe.getsockname()[1])


def _check_endpoint(endpoint: str, protocol: str) -> None:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme not in {"http", "https"}:
        raise CommandError(
            f"--endpoint {endpoint} is not a URL such as http://localhost:{PROTOCOLS[protocol]}"
        )
    port = port or (443 if parts.scheme == "https" else 80 if protocol != "grpc" else PROTOCOLS[protocol])
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise CommandError(
            f"nothing answers at {endpoint} ({error}); start the backend, or leave out --endpoint"
        ) from error


def _environment(endpoint: str, protocol: str, dropped: Collection[str], folder: Path) -> dict[str, str]:
    """The user's own without some of it, with the telemetry going to ``endpoint``, and alerts in a hurry."""
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    no_proxy = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    direct = ",".join(filter(None, (no_proxy, LOOPBACK)))
    rules = folder / "alerts.yaml"
    return {
        **kept,
        "OTEL_SERVICE_NAME": SERVICE_NAME,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_METRIC_EXPORT_INTERVAL": _EXPORT_INTERVAL_MS,
        "OTEL_BLRP_SCHEDULE_DELAY": _LOGS_DELAY_MS,
        **_ALERTS,
        "OTEL_AIMON_ALERT_RULES": str(rules) if rules.is_file() else "",
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
    }


# --- the service -------------------------------------------------------------------------------


class Service:
    """The example service in a process of its own; leaving the context stops it and lets it flush.

    Args:
        launcher: The command ``opentelemetry-instrument``.
        folder: Where ``service.py`` is.
        port: Where it listens.
        environment: Its environment.
    """

    def __init__(self, launcher: str, folder: Path, port: int, environment: dict[str, str]) -> None:
        self._port = port
        self._command = [
            launcher, sys.executable, "-m", "uvicorn", "service:app", "--app-dir", str(folder),
            "--host", LOOPBACK, "--port", str(port), "--log-level", "warning",
        ]  # fmt: skip
        self._environment = environment
        self._lines: deque[str] = deque(maxlen=200)

    def __enter__(self) -> Self:
        # A session of its own: Ctrl-C reaches the demo alone, which then lets the service flush.
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            if self.running:
                self._process.send_signal(signal.SIGTERM)
            self._process.wait(_STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # It does not come to an end, or the user does not want to wait for its flush.
            self._process.kill()
            self._process.wait()
        self._reader.join(_CONNECT_SECONDS)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.append(line.rstrip())

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._process.poll() is None

    def await_start(self) -> None:
        """Return when it answers.

        Raises:
            CommandError: It ended, or did not answer in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                self._reader.join(_CONNECT_SECONDS)
                raise CommandError(f"the service ended at its start {self.ending()}: {self.last_lines()}")
            if self._answers():
                return
            time.sleep(0.1)
        raise CommandError(f"the service did not answer within {_START_SECONDS:g} s: {self.last_lines()}")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=_CONNECT_SECONDS)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ending(self) -> str:
        """How it ended, in words."""
        status = self._process.poll()
        return (
            f"with status {status}" if status is None or status >= 0 else f"by {signal.Signals(-status).name}"
        )

    def last_lines(self) -> str:
        """What it said last, on one line."""
        said = [line.strip() for line in self._lines if line.strip()]
        return " | ".join(said[-_LAST_LINES:]) or "it said nothing"

    def export_failure(self) -> str | None:
        """The first complaint of an OTLP exporter that it gave up."""
        return next((line for line in list(self._lines) if "Failed to export" in line), None)


# --- what the user sees ------------------------------------------------------------------------


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


class _Progress:
    """A bar that moves on a terminal, or a line now and then in a pipe; and every alert and hint as it arrives.

    Args:
        seconds: How long the whole takes.
        events: What arrives.
    """

    _LINES = 5

    def __init__(self, seconds: float, events: Sequence[Event] = ()) -> None:
        self._seconds = seconds
        self._events = events
        self._told = 0
        self._terminal = sys.stderr.isatty()
        self._next_line = 1

    def _tell_events(self, passed: float) -> None:
        while self._told < len(self._events):
            event = self._events[self._told]
            self._told += 1
            line = alert_line(event) or hint_line(event)
            if line is not None:
                _say(f"{_CLEAR_LINE if self._terminal else ''}{passed:4.0f} s  {line}")

    def __call__(self, passed: float, requests: int) -> None:
        self._tell_events(passed)
        done = min(1.0, passed / self._seconds)
        if self._terminal:
            bar = "█" * int(done * _BAR)
            _say(
                f"\r{bar:░<{_BAR}} {done:4.0%}  {requests} requests",
                end="\n" if passed == self._seconds else "",
            )
        elif done * self._LINES >= self._next_line:
            self._next_line = int(done * self._LINES) + 1
            _say(f"{done:4.0%} of {self._seconds:g} s, {requests} requests")


def _show(made: Report, options: argparse.Namespace) -> int:
    if options.json:
        head = {"otel_aimon": __version__, "seconds": options.seconds, "ok": made.ok}
        show(json.dumps({**head, **made.as_data()}))
    else:
        show(made.as_text())
    if made.ok:
        return 0
    _say("otel-aimon demo: what was sent and what arrived differ, or requests got no answer; see the report")
    return 1


def _say_where(load: Load, service: Service, options: argparse.Namespace) -> int:
    """Say what was sent to the user's own backend."""
    sent = report.requests_section(Evidence(load.outcomes, Received()))
    failure = service.export_failure()
    if options.json:
        head: dict[str, Any] = {"otel_aimon": __version__, "seconds": options.seconds}
        where = {"endpoint": options.endpoint, "protocol": options.protocol, "service": SERVICE_NAME}
        show(json.dumps({**head, "ok": sent.ok and failure is None, **where, "requests": sent.data}))
    else:
        show(Report([sent, _where(options.endpoint, options.protocol)]).as_text())
    if failure is not None:
        raise CommandError(f"the service could not deliver everything to {options.endpoint}: {failure}")
    return 0 if sent.ok else 1


def _where(endpoint: str, protocol: str) -> Section:
    lines = [
        f"Everything went to {endpoint} ({protocol}). Look there for",
        f"  service.name = {SERVICE_NAME}",
        "  spans        with the attribute aimon.framework, one per request",
        "  metrics      aimon.inference.duration, aimon.inference.tokens, gen_ai.server.request.duration, …",
    ]
    return Section("where", "Where to look", None, lines)
