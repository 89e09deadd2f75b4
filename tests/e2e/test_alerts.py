"""What goes wrong in a real service is told, whole and once, and so is its end.

The scenarios spend their time waiting for windows to pass, so they all run at once; each test reads what
came of one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from otel_aimon.cli.receiver import Event, Point, Receiver, Span
from tests.e2e.processes import environment, free_port, get, our_spans, serving, wait_until
from tests.e2e.test_collector import TO_FILES, agent, records

UVICORN = (
    "uvicorn", "troubled:app", "--log-level", "warning", "--timeout-graceful-shutdown", "1", "--port", "{port}",
)  # fmt: skip
GUNICORN = ("gunicorn", "wsgi:app", "--threads", "4", "--no-control-socket", "-b", "127.0.0.1:{port}")
ON_THIS_MACHINE = "  memory.*: off\n  cpu.*: off\n  gpu.*: off\n"
"""What other programs of the machine can make fire."""

FEW_ERRORS = """rules:
  error.ratio.critical: {for: 1s, keep_firing: 3s, samples: 100}
"""
HANGS = """rules:
  stall: {on: 0.01, off: 0.01, keep_firing: 1s}  # a hundredth of the five minutes that are allowed at first
"""
CHANGES = """rules:
  latency.shift: {keep_firing: 1s}
  traffic.drop: {keep_firing: 1s}
  leak: {signal: process.memory.usage, on: 500MiB, for: 1s, keep_firing: 1s, severity: critical}
  # Seconds are too short to learn by what these judge.
  latency.drift: off
  model.imbalance: off
  traffic.surge: off
"""

CLIENTS = 4
HEALTHY_SECONDS = float(os.environ.get("AIMON_TEST_HEALTHY_SECONDS", "60"))
"""From 300 on, what is usual is learned in the first third, and judged by in the rest."""


class Service:
    """A service that runs, and what its own callback was told.

    Args:
        port: Where it listens.
        told: The file that its callback writes to.
    """

    def __init__(self, port: int, told: Path) -> None:
        self.port = port
        self._told = told

    def ask(self, *paths: str) -> Counter[int]:
        """Ask for each path, several at a time.

        Returns:
            How often there was each status.
        """
        with ThreadPoolExecutor(CLIENTS) as pool:
            return Counter(pool.map(lambda path: get(self.port, path), paths))

    def ask_in_vain(self, path: str) -> None:
        """Ask for a path; the service may end before it answers."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            get(self.port, path)

    def told(self) -> list[dict[str, Any]]:
        """Every event, as the callback got it."""
        if not self._told.exists():
            return []
        *lines, _unfinished = self._told.read_text().split("\n")
        return [json.loads(line) for line in lines]

    def wait_for_events(self, number: int) -> None:
        """Wait until the callback has got so many."""
        wait_until(lambda: len(self.told()) >= number, f"{number} events")

    def wait_for(self, *rules: str, state: str) -> None:
        """Wait until the callback was told that each rule is in a state, the last thing it was told of it."""

        def latest() -> dict[str, str]:
            return {told["aimon.alert.rule.name"]: told["aimon.alert.state"] for told in self.told()}

        wait_until(lambda: all(latest().get(rule) == state for rule in rules), f"{rules} {state}")

    @contextlib.contextmanager
    def asking(self, *paths: str) -> Iterator[None]:
        """Ask for each path for the while, some twenty times a second, and mind no answer."""
        enough = threading.Event()

        def ask(path: str) -> None:
            while not enough.wait(0.05):
                self.ask_in_vain(path)

        with ThreadPoolExecutor(len(paths)) as pool:
            for path in paths:
                pool.submit(ask, path)
            try:
                yield
            finally:
                enough.set()


@dataclass
class Outcome:
    """What came of a scenario, after the service has ended.

    Attributes:
        received: By an OTLP receiver.
        called: By the application's callback.
        began: When the scenario's fault began, in nanoseconds since 1970.
        over: When it was over.
        notes: What only one scenario knows.
    """

    receiver: Receiver
    called: list[dict[str, Any]]
    began: int = 0
    over: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def events(self) -> list[Event]:
        """Events of ours, in order."""
        received = self.receiver.received.events
        return [
            event
            for event in received
            if event.scope == "otel_aimon" and event.name.startswith("aimon.alert")
        ]

    @property
    def spans(self) -> dict[str, Span]:
        """The requests by their trace; each has one of its own."""
        return {span.trace_id: span for span in our_spans(self.receiver)}

    def latest(self, metric: str) -> dict[tuple[str, ...], float | None]:
        """Values by attributes' values, without prefix and in the order of their keys."""
        return {_values(point): point.value for point in self.receiver.received.latest_points(metric)}

    def ever(self, metric: str) -> dict[tuple[str, ...], list[float | None]]:
        """Each new value of a metric, by attributes' values."""
        found: dict[tuple[str, ...], list[float | None]] = {}
        for point in self.receiver.received.points:
            if point.metric == metric:
                values = found.setdefault(_values(point), [])
                if values[-1:] != [point.value]:
                    values.append(point.value)
        return found


def _values(point: Point) -> tuple[str, ...]:
    return tuple(str(value) for _, value in sorted(point.attributes.items()))


def serve(
    folder: Path,
    rules: str,
    act: Callable[[Service], None],
    env: dict[str, str],
    server: tuple[str, ...] = UVICORN,
) -> list[dict[str, Any]]:
    """Run a service, and do something with it.

    Returns:
        What its callback got until it had ended.
    """
    file = folder / "rules.yaml"
    file.write_text(rules.replace("rules:\n", "rules:\n" + ON_THIS_MACHINE, 1))
    port = free_port()
    service = Service(port, folder / "told.jsonl")
    env |= {"ALERTS": str(folder / "told.jsonl"), "OTEL_AIMON_ALERT_RULES": str(file)}
    env.setdefault("OTEL_AIMON_ALERT_TICK", "0.2")
    with serving(*(word.format(port=port) for word in server), env=env, port=port):
        act(service)
    return service.told()


# --- what goes wrong ---------------------------------------------------------------------------


def let_requests_fail(service: Service) -> None:
    """Thirty of a hundred requests fail, and then none any more."""
    assert service.ask(*(["/run"] * 7 + ["/run-wrong"] * 3) * 10) == {200: 70, 500: 30}
    service.wait_for_events(1)
    assert service.ask(*["/run"] * 200) == {200: 200}
    service.wait_for_events(2)


def requests_that_fail(folder: Path, protocol: str, **env: str) -> Outcome:
    with Receiver() as receiver:
        began = time.time_ns()
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        called = serve(folder, FEW_ERRORS, let_requests_fail, environment(endpoint, protocol, **env))
        return Outcome(receiver, called, began, time.time_ns())


def let_it_end(service: Service) -> None:
    """Requests fail, and the process ends before they no longer do."""
    assert service.ask(*(["/run"] * 7 + ["/run-wrong"] * 3) * 10) == {200: 70, 500: 30}
    service.wait_for("error.ratio.critical", state="firing")


def worker_that_ends(folder: Path) -> Outcome:
    with Receiver() as receiver:
        env = environment(receiver.grpc_endpoint, "grpc", SERVED="troubled")
        return Outcome(receiver, serve(folder, FEW_ERRORS, let_it_end, env, GUNICORN))


def requests_that_fail_behind_a_collector(folder: Path) -> dict[str, list[dict[str, Any]]]:
    with agent(folder, TO_FILES, FOLDER=str(folder)) as running:
        serve(folder, FEW_ERRORS, let_requests_fail, environment(running.grpc, "grpc"))
    return {
        "spans": records(folder / "traces.json", "resourceSpans", "scopeSpans", "spans"),
        "events": records(folder / "logs.json", "resourceLogs", "scopeLogs", "logRecords"),
    }


def let_it_hang(service: Service) -> None:
    """A request hangs until the fault is over, and another one when the process is told to end."""
    assert service.ask(*["/predict"] * 5) == {200: 5}
    for state in ("resolved", "firing"):
        service.ask("/hang")
        threading.Thread(target=service.ask_in_vain, args=("/predict",), daemon=True).start()
        service.wait_for("stall", state="firing")
        if state == "resolved":
            service.ask("/well")
            service.wait_for("stall", state="resolved")


def requests_that_hang(folder: Path) -> Outcome:
    with Receiver() as receiver:
        began = time.time_ns()
        called = serve(folder, HANGS, let_it_hang, environment(receiver.http_endpoint))
        return Outcome(receiver, called, began, time.time_ns())


def let_it_change(service: Service) -> None:
    """It gets slow and leaks for a while; then nobody asks any more for a while."""
    with service.asking("/predict", "/predict", "/run"):
        time.sleep(10)  # It learns what is usual.
        service.ask("/slow", "/leak")
        service.wait_for("latency.shift", "leak", state="firing")
        service.ask("/well")
        service.wait_for("latency.shift", "leak", state="resolved")
    service.wait_for("traffic.drop", state="firing")
    with service.asking("/predict", "/predict", "/run"):
        service.wait_for("traffic.drop", state="resolved")


def service_that_changes(folder: Path) -> Outcome:
    with Receiver() as receiver:
        env = environment(
            receiver.http_endpoint,
            OTEL_AIMON_ALERT_TICK="0.25",
            OTEL_AIMON_ALERT_LEARNING="8",
            OTEL_AIMON_SAMPLE_INTERVAL="0.3",
        )
        began = time.time_ns()
        called = serve(folder, CHANGES, let_it_change, env)
        return Outcome(receiver, called, began, time.time_ns())


def let_it_be(service: Service) -> Counter[int]:
    """Requests come in bursts at random times; one in five hundred fails, which is well within the objective."""
    chance = random.Random(1)
    asked: list[Future[int]] = []
    end = time.monotonic() + HEALTHY_SECONDS
    with ThreadPoolExecutor(16) as pool:
        while time.monotonic() < end:
            time.sleep(chance.expovariate(8.0))
            for _ in range(chance.randint(1, 4)):
                path = chance.choice(("/predict", "/run")) if chance.random() < 0.998 else "/run-wrong"
                asked.append(pool.submit(get, service.port, path))
    return Counter(each.result() for each in asked)


def healthy_service(folder: Path) -> tuple[Outcome, Counter[int]]:
    env = {}
    if HEALTHY_SECONDS >= 300:
        env = {"OTEL_AIMON_ALERT_LEARNING": str(HEALTHY_SECONDS / 3), "OTEL_AIMON_ALERT_TICK": "10"}
    answers: Counter[int] = Counter()
    with Receiver() as receiver:
        called = serve(
            folder,
            "rules:\n",
            lambda service: answers.update(let_it_be(service)),
            environment(receiver.http_endpoint, **env),
        )
        return Outcome(receiver, called), answers


SCENARIOS: dict[str, Callable[[Path], Any]] = {
    "errors grpc": lambda folder: requests_that_fail(folder, "grpc"),
    "errors http": lambda folder: requests_that_fail(folder, "http/protobuf"),
    "errors sampled": lambda folder: requests_that_fail(
        folder,
        "http/protobuf",
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.01",
    ),
    "errors collector": requests_that_fail_behind_a_collector,
    "worker": worker_that_ends,
    "hang": requests_that_hang,
    "change": service_that_changes,
    "healthy": healthy_service,
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Any]]]:
    """What comes of each scenario."""
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        yield {
            name: pool.submit(scenario, tmp_path_factory.mktemp(name.replace(" ", "-")))
            for name, scenario in SCENARIOS.items()
        }


# --- what is told ------------------------------------------------------------------------------

IN_WORDS = {
    "firing": "30 % of the requests of model doubling failed in the last 5 min.",
    "resolved": "Model doubling: error.ratio.critical is over after",
}
PREVIOUS = {"firing": ("pending", "threshold", 17), "resolved": ("recovering", "clear", 9)}
SEEN = {"firing": (0.3, 100), "resolved": (0.1, 300)}


@pytest.mark.parametrize("scenario", ["errors grpc", "errors http", "errors sampled"])
def test_errors_are_told_and_their_end(outcomes: Mapping[str, Future[Outcome]], scenario: str) -> None:
    outcome = outcomes[scenario].result()

    assert [event.attributes["aimon.alert.state"] for event in outcome.events] == ["firing", "resolved"]
    firing, resolved = outcome.events
    for event in outcome.events:
        told = dict(event.attributes)
        # The machine may be busy, and this explains errors.
        told.pop("aimon.alert.cause", None)
        told.pop("aimon.alert.cause.confidence", None)
        examples = told.pop("aimon.alert.exemplar.trace_ids", ())
        state = told["aimon.alert.state"]
        previous, reason, severity = PREVIOUS[state]
        value, samples = SEEN[state]
        assert (event.name, event.severity) == ("aimon.alert", severity)
        assert event.body.startswith(IN_WORDS[state])
        duration, started_at = told["aimon.alert.duration"], told["aimon.alert.started_at"]
        assert told == {
            "aimon.alert.id": firing.attributes["aimon.alert.id"],
            "aimon.alert.fingerprint": "00c902d8f80a36ff",
            "aimon.alert.rule.name": "error.ratio.critical",
            "aimon.alert.rule.version": "1",
            "aimon.alert.category": "threshold",
            "aimon.alert.state": state,
            "aimon.alert.previous_state": previous,
            "aimon.alert.reason": reason,
            "aimon.alert.severity": "critical",
            "aimon.alert.signal": "aimon.inference.error.ratio",
            "aimon.alert.unit": "1",
            "aimon.alert.threshold": 0.2,
            "aimon.alert.for": 1.0,
            "aimon.alert.started_at": firing.attributes["aimon.alert.started_at"],
            "aimon.alert.duration": duration,
            "aimon.alert.flap_count": 0,
            "aimon.alert.heartbeat": False,
            "aimon.alert.value": value,
            "aimon.alert.score": value,
            "aimon.alert.peak": 0.3,
            "aimon.alert.window": 300.0,
            "aimon.alert.samples": samples,
            "aimon.model.name": "doubling",
            "aimon.operation": "run",
        }
        assert event.resource["service.name"] == "e2e"
        assert outcome.began < started_at < outcome.over
        assert started_at <= event.time_ns < outcome.over
        check_examples(outcome, event, examples)
    assert firing.time_ns == firing.attributes["aimon.alert.started_at"]
    assert 1.0 <= firing.attributes["aimon.alert.duration"] < resolved.attributes["aimon.alert.duration"]
    if scenario != "errors sampled":
        assert firing.trace_id
        assert resolved.trace_id == firing.trace_id


def check_examples(outcome: Outcome, event: Event, examples: tuple[str, ...]) -> None:
    """Each is a failed request that the backend has, and the first is the record's own."""
    assert event.trace_id == (examples[0] if examples else "")
    for trace_id in examples:
        span = outcome.spans[trace_id]
        assert (span.name, span.status) == ("run doubling", 2)
    if examples:
        assert event.span_id == outcome.spans[examples[0]].span_id


@pytest.mark.parametrize("scenario", ["errors grpc", "errors http", "errors sampled"])
def test_metrics_count_what_is_told(outcomes: Mapping[str, Future[Outcome]], scenario: str) -> None:
    outcome = outcomes[scenario].result()

    about = ("error.ratio.critical", "critical")
    assert outcome.ever("aimon.alert.active") == {(*about, "doubling"): [1, 0]}
    transitions = outcome.latest("aimon.alert.transitions")
    assert transitions.pop(("error.ratio", "warning", "pending")) == 1
    assert transitions.pop(("error.ratio", "warning", "inactive"), 1) == 1
    assert transitions == {(*about, state): 1 for state in ("pending", "firing", "recovering", "resolved")}
    assert outcome.latest("aimon.slo.events") == {
        ("doubling", "error", "good"): 270,
        ("doubling", "error", "bad"): 30,
        ("doubling", "e2e", "good"): 270,
        ("doubling", "e2e", "bad"): 0,
    }


@pytest.mark.parametrize("scenario", ["errors grpc", "errors http", "errors sampled"])
def test_the_applications_callback_gets_the_same(
    outcomes: Mapping[str, Future[Outcome]], scenario: str
) -> None:
    outcome = outcomes[scenario].result()
    exported = [
        json.loads(json.dumps({"name": event.name, "body": event.body, **event.attributes}))
        for event in outcome.events
    ]
    assert outcome.called == exported


def test_events_go_through_a_collector(outcomes: Mapping[str, Future[Any]]) -> None:
    found = outcomes["errors collector"].result()

    firing, resolved = (event for event in found["events"] if event.get("eventName") == "aimon.alert")
    attributes = {each["key"]: each["value"] for each in firing["attributes"]}
    assert firing["body"] == {"stringValue": IN_WORDS["firing"]}
    assert attributes["aimon.alert.state"] == {"stringValue": "firing"}
    assert attributes["aimon.alert.value"] == {"doubleValue": 0.3}
    assert attributes["aimon.alert.samples"] == {"intValue": "100"}
    assert [event["severityText"] for event in (firing, resolved)] == ["ERROR", "INFO"]
    assert [event["severityNumber"] for event in (firing, resolved)] == [17, 9]
    for event in (firing, resolved):
        assert int(event["timeUnixNano"]) <= int(event["observedTimeUnixNano"])
        assert event["flags"] == 1
    failed = {(span["traceId"], span["spanId"]) for span in found["spans"] if span["status"].get("code") == 2}
    assert len(failed) == 30
    assert (firing["traceId"], firing["spanId"]) in failed


def test_the_alerts_of_a_worker_end_with_it(outcomes: Mapping[str, Future[Outcome]]) -> None:
    outcome = outcomes["worker"].result()

    firing, resolved = outcome.events
    assert (firing.body, firing.attributes["aimon.alert.state"]) == (IN_WORDS["firing"], "firing")
    assert resolved.attributes["aimon.alert.id"] == firing.attributes["aimon.alert.id"]
    assert resolved.attributes["aimon.alert.previous_state"] == "firing"
    assert resolved.attributes["aimon.alert.reason"] == "shutdown"
    assert [told["body"] for told in outcome.called] == [firing.body, resolved.body]
    about = ("error.ratio.critical", "critical", "doubling")
    assert outcome.latest("aimon.alert.active") == {about: 0}


HANGING = "Pipeline(LogisticRegression)"


def test_a_hang_is_told_and_ends_with_the_hang_or_the_process(
    outcomes: Mapping[str, Future[Outcome]],
) -> None:
    outcome = outcomes["hang"].result()

    steps = [
        (event.attributes["aimon.alert.state"], event.attributes["aimon.alert.reason"], event.severity)
        for event in outcome.events
    ]
    assert steps == [
        ("firing", "threshold", 17),
        ("resolved", "clear", 9),
        ("firing", "threshold", 17),
        ("resolved", "shutdown", 9),
    ]
    first, over, second, ended = outcome.events
    assert len({event.attributes["aimon.alert.fingerprint"] for event in outcome.events}) == 1
    for firing, resolved in ((first, over), (second, ended)):
        for key in ("aimon.alert.id", "aimon.alert.started_at"):
            assert firing.attributes[key] == resolved.attributes[key]
        told = dict(firing.attributes)
        told.pop("aimon.alert.cause", None)
        told.pop("aimon.alert.cause.confidence", None)
        silence = told["aimon.alert.value"]
        assert 3.0 <= silence < 20.0
        assert told == {
            "aimon.alert.id": firing.attributes["aimon.alert.id"],
            "aimon.alert.fingerprint": "71c106f867e29922",
            "aimon.alert.rule.name": "stall",
            "aimon.alert.rule.version": "1",
            "aimon.alert.category": "watchdog",
            "aimon.alert.state": "firing",
            "aimon.alert.previous_state": "pending",
            "aimon.alert.reason": "threshold",
            "aimon.alert.severity": "critical",
            "aimon.alert.signal": "aimon.inference.active",
            "aimon.alert.unit": "s",
            "aimon.alert.threshold": 0.01,
            "aimon.alert.for": 0.0,
            "aimon.alert.started_at": firing.time_ns,
            "aimon.alert.duration": 0.0,
            "aimon.alert.flap_count": 0,
            "aimon.alert.heartbeat": False,
            "aimon.alert.value": silence,
            "aimon.alert.baseline": 300.0,
            "aimon.alert.score": pytest.approx(silence / 300.0),
            "aimon.alert.peak": silence,
            "aimon.model.name": HANGING,
            "aimon.operation": "predict",
        }
        assert re.fullmatch(
            rf"Model {re.escape(HANGING)} has requests in flight, and none has made progress for [\d.]+ s\.",
            firing.body,
        )
    assert first.attributes["aimon.alert.id"] != second.attributes["aimon.alert.id"]
    assert over.body.startswith(f"Model {HANGING}: stall is over after ")
    assert ended.body.startswith(f"Model {HANGING}: stall was not over when the process ended, after ")
    # The callback was called to the end, and the last metrics say that nothing fires any more.
    assert [told["body"] for told in outcome.called] == [event.body for event in outcome.events]
    about = ("stall", "critical")
    assert outcome.ever("aimon.alert.active") == {(*about, HANGING): [1, 0, 1, 0]}
    assert outcome.latest("aimon.alert.transitions") == {
        (*about, "pending"): 2,
        (*about, "firing"): 2,
        (*about, "recovering"): 1,
        (*about, "resolved"): 2,
    }


def test_what_changes_is_told(outcomes: Mapping[str, Future[Outcome]]) -> None:
    outcome = outcomes["change"].result()

    by_rule: dict[str, list[Event]] = {}
    for event in outcome.events:
        by_rule.setdefault(event.attributes["aimon.alert.rule.name"], []).append(event)
    assert {
        rule: [event.attributes["aimon.alert.state"] for event in events] for rule, events in by_rule.items()
    } == {rule: ["firing", "resolved"] for rule in ("latency.shift", "leak", "traffic.drop")}
    for firing, resolved in by_rule.values():
        assert firing.attributes["aimon.alert.id"] == resolved.attributes["aimon.alert.id"]
        assert resolved.attributes["aimon.alert.reason"] == "clear"

    slow = by_rule["latency.shift"][0]
    assert slow.severity == 13
    assert slow.attributes["aimon.alert.value"] > 1.1 * slow.attributes["aimon.alert.baseline"]
    example = outcome.spans[slow.trace_id]
    assert (example.name, example.span_id) == (f"predict {HANGING}", slow.span_id)
    assert example.seconds > 0.05
    assert slow.attributes.get("aimon.model.name", HANGING) == HANGING

    leak = by_rule["leak"][0]
    used = [
        point.value for point in outcome.receiver.received.points if point.metric == "process.memory.usage"
    ]
    assert leak.severity == 17
    assert leak.attributes["aimon.alert.category"] == "custom"
    assert (leak.attributes["aimon.alert.threshold"], leak.attributes["aimon.alert.unit"]) == (
        500 << 20,
        "By",
    )
    assert 500 << 20 <= leak.attributes["aimon.alert.value"] <= max(used)
    assert re.fullmatch(r"This process: leak is at [\d.]+ MiB\.", leak.body)

    lost = by_rule["traffic.drop"][0]
    assert lost.severity == 13
    assert lost.attributes["aimon.alert.unit"] == "{request}/s"
    assert lost.attributes["aimon.alert.value"] < 5 < lost.attributes["aimon.alert.baseline"] < 60
    assert lost.body.startswith("This process gets far fewer requests than usual: ")


def test_healthy_bursty_load_is_silent(
    outcomes: Mapping[str, Future[tuple[Outcome, Counter[int]]]],
) -> None:
    outcome, answers = outcomes["healthy"].result()

    assert answers[200] > 10 * HEALTHY_SECONDS
    assert answers[500] < 0.005 * answers.total()
    assert [event.body for event in outcome.events] == []
    assert outcome.called == []
    assert outcome.latest("aimon.alert.active") == {}
    by_outcome = {"good": 0.0, "bad": 0.0}
    for (_model, objective, judged), count in outcome.latest("aimon.slo.events").items():
        if objective == "error":
            by_outcome[judged] += count or 0.0
    assert by_outcome == {"good": answers[200], "bad": answers[500]}
