"""A load for the example service: steady, seeded, from several clients, with requests that go wrong."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Literal

from otel_aimon.cli.faults import ERROR_BURST, MALFORMED, SLOWDOWN, Fault, faults_of
from otel_aimon.cli.ramp import MODEL, ramp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Ending = Literal["completed", "failed", "abandoned", "unanswered"]

CLIENTS = 4
RATE = 40.0
"""Requests per second, of all clients together."""

_SLOWEST = 30.0
_LEAVING = 1.0
"""Seconds that interrupted clients get to finish their requests."""
_BEFORE_LEAVING = (5, 60)
"""Tokens that the client of an abandoned stream waits for."""
_WHOLE_STREAM = (20, 120)
_SHORT_STREAM = (10, 40)
"""Tokens of a stream of the ramp: many requests tell more than long ones."""
_ENDLESS_STREAM = 50_000
"""Tokens that an abandoned stream asks for: far more than are made before the service notices."""


@dataclass(frozen=True)
class Case:
    """One kind of request.

    Attributes:
        kind: Name in the report.
        framework: ``aimon.framework`` of the model that answers.
        path: Where it goes.
        expected: How it ends when the service works as it should.
        weight: Its share of the load.
    """

    kind: str
    framework: str
    path: str
    expected: Ending
    weight: int


CASES = (
    Case("scikit-learn", "sklearn", "/classify", "completed", 42),
    Case("ONNX", "onnxruntime", "/classify/onnx", "completed", 32),
    Case("text stream", "manual", "/generate", "completed", 16),
    Case("scikit-learn", "sklearn", "/classify", "failed", 4),
    Case("ONNX", "onnxruntime", "/classify/onnx", "failed", 2),
    Case("text stream", "manual", "/generate", "abandoned", 4),
)


_MALFORMED_CASE = next(case for case in CASES if case.expected == "failed")
_RAMP_CASE = Case("text stream", "manual", f"/generate?model={MODEL}", "completed", 0)


@dataclass(frozen=True)
class Outcome:
    """What a client saw of one request.

    Attributes:
        case: The kind of request.
        ending: How it ended.
        seconds: From sending to the last byte, or to the moment when the client went away.
        tokens: Words of a stream that was read to its end.
    """

    case: Case
    ending: Ending
    seconds: float
    tokens: int = 0


class Load:
    """Sends requests to the example service until its time is over.

    Args:
        host: Where the service listens.
        port: Where the service listens.
        seconds: How long.
        seed: The same seed makes the same requests.

    Attributes:
        outcomes: What the clients saw.
        faults: What went wrong on purpose, and when that began, in nanoseconds since 1970.
    """

    def __init__(self, host: str, port: int, seconds: float, seed: int = 0) -> None:
        self._address = (host, port)
        self._seconds = seconds
        self._seed = seed
        self._stop = threading.Event()
        self.outcomes: list[Outcome] = []
        self.faults: list[tuple[Fault, int]] = []

    def stop(self) -> None:
        """Send nothing more; what is under way is finished."""
        self._stop.set()

    def run(self, progress: Callable[[float, int], None], gone: Callable[[], bool]) -> None:
        """Send requests from several clients at once; return when all are answered.

        Args:
            progress: Called some times a second with the seconds that passed and the requests that ended.
            gone: Tells that the service has died, so that going on makes no sense.

        Raises:
            OSError: The service does not answer at all.
        """
        samples = fetch_samples(*self._address)
        started = time.monotonic()
        clients = [
            threading.Thread(target=self._client, args=(number, samples, started), daemon=True)
            for number in range(CLIENTS)
        ]
        ramp = ramp_of(self._seconds)
        clients += [
            threading.Thread(
                target=self._insatiable, args=(CLIENTS + number, started + after, started), daemon=True
            )
            for number, after in enumerate(ramp.starts() if ramp is not None else ())
        ]
        injector = threading.Thread(target=self._inject, args=(started,), daemon=True)
        for thread in (*clients, injector):
            thread.start()
        try:
            while any(client.is_alive() for client in clients):
                progress(time.monotonic() - started, len(self.outcomes))
                if gone():
                    self.stop()
                self._stop.wait(0.1) if not self._stop.is_set() else time.sleep(0.05)
        finally:
            self.stop()
            until = time.monotonic() + _LEAVING
            for thread in (*clients, injector):
                thread.join(max(0.0, until - time.monotonic()))
        progress(self._seconds, len(self.outcomes))

    def _inject(self, started: float) -> None:
        for fault in faults_of(self._seconds):
            if self._stop.wait(max(0.0, started + fault.after - time.monotonic())):
                return
            self.faults.append((fault, time.time_ns()))
            if fault is SLOWDOWN:
                post(*self._address, f"/rebuild?seconds={fault.seconds:g}")

    def _bursts(self, passed: float) -> bool:
        """Whether requests shall be malformed ``passed`` seconds after the start."""
        burst = next((fault for fault in faults_of(self._seconds) if fault is ERROR_BURST), None)
        return burst is not None and burst.after <= passed < burst.after + burst.seconds

    def _client(self, number: int, samples: list[list[float]], started: float) -> None:
        chance = random.Random(self._seed + number)  # noqa: S311 - a load, no secret
        # Each client starts with every kind once, so that the shortest load has them all.
        everything = list(CASES)
        chance.shuffle(everything)
        cases = chain(everything, _weighted(chance))
        pause = CLIENTS / RATE
        for turn, case in zip(count(), cases, strict=False):
            due = started + (turn + number / CLIENTS) * pause
            if due > started + self._seconds or self._stop.wait(max(0.0, due - time.monotonic())):
                return
            malformed = self._bursts(time.monotonic() - started) and chance.random() < MALFORMED
            self.outcomes.append(self._send(_MALFORMED_CASE if malformed else case, chance, samples))

    def _insatiable(self, number: int, begin: float, started: float) -> None:
        """Stream one text after the other from ``begin`` on."""
        chance = random.Random(self._seed + number)  # noqa: S311 - a load, no secret
        if self._stop.wait(max(0.0, begin - time.monotonic())):
            return
        while time.monotonic() < started + self._seconds and not self._stop.is_set():
            self.outcomes.append(self._send(_RAMP_CASE, chance, []))

    def _send(self, case: Case, chance: random.Random, samples: list[list[float]]) -> Outcome:
        began = time.monotonic()
        connection = http.client.HTTPConnection(*self._address, timeout=_SLOWEST)
        try:
            method, path, body = _request(case, chance, samples)
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            if case.expected == "abandoned":
                _read_words(response, chance.randint(*_BEFORE_LEAVING))
                return Outcome(case, "abandoned", time.monotonic() - began)
            text = response.read()
            ending: Ending = "completed" if response.status == http.client.OK else "failed"
            streamed = case.kind == "text stream" and ending == "completed"
            tokens = len(text.split()) if streamed else 0
            return Outcome(case, ending, time.monotonic() - began, tokens)
        except (OSError, http.client.HTTPException):
            return Outcome(case, "unanswered", time.monotonic() - began)
        finally:
            connection.close()


def fetch_samples(host: str, port: int) -> list[list[float]]:
    """Rows of features that the service offers to try it with.

    Raises:
        OSError: The service does not answer.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_SLOWEST)
    try:
        connection.request("GET", "/samples")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    except http.client.HTTPException as error:
        raise OSError(f"the service does not speak HTTP: {error}") from error
    finally:
        connection.close()
    rows: list[list[float]] = answer["rows"]
    return rows


def post(host: str, port: int, path: str) -> None:
    """Ask the service for something that is no inference; whether it does it shows in its telemetry."""
    connection = http.client.HTTPConnection(host, port, timeout=_SLOWEST)
    try:
        connection.request("POST", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()


def _read_words(response: http.client.HTTPResponse, least: int) -> None:
    words = 0
    while words < least and (piece := response.read1(512)):
        words += piece.count(b" ")


def _weighted(chance: random.Random) -> Iterator[Case]:
    weights = [case.weight for case in CASES]
    while True:
        yield chance.choices(CASES, weights)[0]


def _request(
    case: Case, chance: random.Random, samples: list[list[float]]
) -> tuple[Literal["GET", "POST"], str, str | None]:
    if case.kind == "text stream":
        if case.expected == "abandoned":
            tokens = _ENDLESS_STREAM
        else:
            tokens = chance.randint(*(_SHORT_STREAM if case is _RAMP_CASE else _WHOLE_STREAM))
        seed = chance.randrange(10**6)
        more = "&" if "?" in case.path else "?"
        return "GET", f"{case.path}{more}prompt=the+data&tokens={tokens}&seed={seed}", None
    rows = chance.sample(samples, chance.choice((1, 1, 1, 2, 4, 8)))
    if case.expected == "failed":
        rows = [row[:-1] for row in rows]
    return "POST", case.path, json.dumps({"rows": rows})
