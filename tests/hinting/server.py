"""A server of c workers and a first-come-first-served queue, small enough to read."""

from __future__ import annotations

import heapq
from collections import deque
from random import Random
from typing import TYPE_CHECKING

from otel_aimon.hinting.observation import Completed

if TYPE_CHECKING:
    from otel_aimon.hinting.adaptive_limit import AdaptiveLimit


class Server:
    """Poisson arrivals, exponential service, and a limit that is asked at every arrival."""

    def __init__(
        self, limit: AdaptiveLimit, *, workers: int, service: float, rate: float, seed: int = 1
    ) -> None:
        self.limit = limit
        self.workers = workers
        self.service = service
        self.rate = rate
        self.random = Random(seed)
        self.now = 0.0
        self.busy_seconds = 0.0
        self.waiting: deque[float] = deque()
        self.running: list[tuple[float, float]] = []
        self.next_arrival = self.random.expovariate(rate)
        self.admitted = self.shed = 0
        self.limits: list[int] = []

    def run(self, seconds: int, *, measured: bool = True, pegged: bool = False) -> None:
        """Serve for so many seconds, and tell the limit the utilisation.

        Args:
            seconds: How long.
            measured: Else it is not told.
            pegged: It is told that it is 1.
        """
        for _ in range(seconds):
            before = self.busy_seconds
            self._until(float(int(self.now) + 1))
            utilization = 1.0 if pegged else (self.busy_seconds - before) / self.workers
            self.limit.step(self.now, min(1.0, utilization) if measured else None)
            self.limits.append(self.limit.limit)

    def _until(self, end: float) -> None:
        while True:
            done = self.running[0][0] if self.running else float("inf")
            event = min(done, self.next_arrival)
            if event > end:
                self._pass(end)
                return
            self._pass(event)
            if event == done:
                self._finish()
            else:
                self._arrive()

    def _pass(self, to: float) -> None:
        self.busy_seconds += len(self.running) * (to - self.now)
        self.now = to

    def _arrive(self) -> None:
        self.next_arrival = self.now + self.random.expovariate(self.rate)
        if self.limit.in_flight >= self.limit.limit:
            self.shed += 1
            self.limit.rejected()
            return
        self.admitted += 1
        self.limit.started(self.now)
        self.waiting.append(self.now)
        self._start()

    def _start(self) -> None:
        while self.waiting and len(self.running) < self.workers:
            end = self.now + self.random.expovariate(1 / self.service)
            heapq.heappush(self.running, (end, self.waiting.popleft()))

    def _finish(self) -> None:
        _, start = heapq.heappop(self.running)
        self.limit.ended(Completed(self.now, self.now - start))
        self._start()
