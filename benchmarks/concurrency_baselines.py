"""Concurrency limiters as published, behind the simulator's interface: what the product is compared with.

All begin at 20 and stay between 2 (Envoy 3) and 1000. Only AIMD knows the SLO: it is its timeout.
"""

from __future__ import annotations

import random
from math import ceil, log10, sqrt
from statistics import mean, median

INITIAL, LEAST, MOST = 20.0, 2.0, 1000.0


class Baseline:
    """A limit that moves when a request ends."""

    def __init__(self, slo, seed):
        self.slo = slo
        self.random = random.Random(seed)
        self.in_flight = 0
        self.current = INITIAL

    @property
    def limit(self):
        return int(self.current)

    def set(self, limit):
        self.current = min(MOST, max(LEAST, limit))

    def on_start(self, t):
        self.in_flight += 1

    def on_end_ex(self, t, latency, ok, tokens_in, tokens_out, ttft, tpot):
        in_flight = self.in_flight
        self.in_flight -= 1
        if "latency" in self.slo:
            late = latency > self.slo["latency"]
        else:
            late = ttft > self.slo["ttft"] or tpot > self.slo["tpot"]
        self.sample(t, latency, in_flight, dropped=not ok or late)

    def on_end(self, t, latency, ok, tokens):
        raise NotImplementedError

    def sample(self, t, rtt, in_flight, *, dropped):
        raise NotImplementedError


class AIMD(Baseline):
    """Netflix concurrency-limits, AIMDLimit: times 0.9 on a drop or timeout, else plus 1 while at least half used."""

    def sample(self, t, rtt, in_flight, *, dropped):
        if dropped:
            self.set(int(0.9 * self.current))
        elif 2 * in_flight >= self.current:
            self.set(self.current + 1)


class Vegas(Baseline):
    """Netflix concurrency-limits, VegasLimit: the queue is ``L (1 - rtt0 / rtt)``.

    ``rtt0`` is the least RTT, measured anew every 0.5 to 1 times ``30 L`` requests.
    """

    def __init__(self, slo, seed):
        super().__init__(slo, seed)
        self.rtt0 = None
        self.samples = 0
        self.jitter = self.random.uniform(0.5, 1.0)

    def sample(self, t, rtt, in_flight, *, dropped):
        self.samples += 1
        if self.samples >= self.jitter * 30 * self.current:
            self.samples = 0
            self.jitter = self.random.uniform(0.5, 1.0)
            self.rtt0 = rtt
            return
        if self.rtt0 is None or rtt < self.rtt0:
            self.rtt0 = rtt
            return
        step = max(1, int(log10(self.current)))
        queue = ceil(self.current * (1 - self.rtt0 / rtt))
        if dropped:
            self.set(self.current - step)
        elif 2 * in_flight < self.current:
            return
        elif queue <= step:
            self.set(self.current + 6 * step)
        elif queue < 3 * step:
            self.set(self.current + step)
        elif queue > 6 * step:
            self.set(self.current - step)


class Gradient2(Baseline):
    """Netflix concurrency-limits, Gradient2Limit in a WindowedLimit: mean RTT of a second against a long mean.

    A window of fewer than ten requests is discarded.
    """

    def __init__(self, slo, seed):
        super().__init__(slo, seed)
        self.long = None
        self.count = 0
        self.window = []
        self.until = 1.0
        self.peak = 0

    def sample(self, t, rtt, in_flight, *, dropped):
        self.window.append(rtt)
        self.peak = max(self.peak, in_flight)
        if t < self.until:
            return
        if len(self.window) >= 10:
            self.update(mean(self.window), self.peak)
        self.window, self.until, self.peak = [], t + 1.0, 0

    def update(self, short, in_flight):
        self.count += 1
        if self.count <= 10:
            self.long = short if self.long is None else self.long + (short - self.long) / self.count
        else:
            self.long += (short - self.long) * 2 / (600 + 1)
        if self.long / short > 2:
            self.long *= 0.95
        if in_flight < self.current / 2:
            return
        gradient = max(0.5, min(1.0, 1.5 * self.long / short))
        self.set(0.8 * self.current + 0.2 * (gradient * self.current + 4))


class EnvoyGradient(Baseline):
    """Envoy's adaptive concurrency with the settings of its documentation.

    Every 100 ms ``L = g L + sqrt(L)`` with ``g = minRTT 1.25 / p50`` between 0.5 and 2. minRTT is the p50 of
    50 requests at a concurrency pinned to 3, every 60 s and up to 15 % more.
    """

    def __init__(self, slo, seed):
        super().__init__(slo, seed)
        self.min_rtt = None
        self.window = []
        self.until = 0.1
        self.resume = INITIAL
        self.measure()

    def measure(self):
        self.resume = self.current
        self.current = 3.0
        self.measuring = []

    def sample(self, t, rtt, in_flight, *, dropped):
        if self.measuring is not None:
            self.measuring.append(rtt)
            if len(self.measuring) >= 50:
                self.min_rtt = median(self.measuring)
                self.measuring = None
                self.current = self.resume
                self.next_measure = t + 60 * self.random.uniform(1.0, 1.15)
                self.window, self.until = [], t + 0.1
            return
        self.window.append(rtt)
        if t < self.until:
            return
        gradient = max(0.5, min(2.0, self.min_rtt * 1.25 / median(self.window)))
        self.current = min(MOST, max(3.0, gradient * self.current + sqrt(gradient * self.current)))
        self.window, self.until = [], t + 0.1
        if t >= self.next_measure:
            self.measure()
