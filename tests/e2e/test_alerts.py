"""What goes wrong in a real service is told, whole and once, and so is its end.

The scenarios spend their time waiting for windows to pass, so they all run at once; each test reads what
came of one.
"""

from __future__ import annotations

import json
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

UVICORN = ("uvicorn", "troubled:app", "--log-level", "warning", "--timeout-graceful-shutdown", "1")
ON_THIS_MACHINE = "  memory.*: off\n  cpu.*: off\n  gpu.*: off\n"
"""What other programs of the machine can make fire."""

FEW_ERRORS = "rules:\n  error.ratio.critical: {for: 1s, keep_firing: 3s, samples: 100}\n"
HANGS = "rules:\n  stall: {on: 0.01, off: 0.01, keep_firing: 1s}\n"

CLIENTS = 4


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

    def told(self) -> list[dict[str, Any]]:
        """Every event, as the callback got it."""
        if not self._told.exists():
            return []
        *lines, _unfinished = self._told.read_text().split("\n")
        return [json.loads(line) for line in lines]

    def wait_for_events(self, number: int) -> None:
        """Wait until the callback has got so many."""
        wait_until(lambda: len(self.told()) >= number, f"{number} events")


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
        return [event for event in self.receiver.received.events if event.scope == "otel_aimon"]

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
    folder: Path, rules: str, act: Callable[[Service], None], env: dict[str, str]
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
    with serving(*UVICORN, "--port", str(port), env=env, port=port):
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


def requests_that_fail_behind_a_collector(folder: Path) -> dict[str, list[dict[str, Any]]]:
    with agent(folder, TO_FILES, FOLDER=str(folder)) as running:
        serve(folder, FEW_ERRORS, let_requests_fail, environment(running.grpc, "grpc"))
    return {
        "spans": records(folder / "traces.json", "resourceSpans", "scopeSpans", "spans"),
        "events": records(folder / "logs.json", "resourceLogs", "scopeLogs", "logRecords"),
    }


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
