"""The product's concurrency limit and hint behind the simulator's interface."""

from __future__ import annotations

from otel_aimon.hinting.adaptive_limit import AdaptiveLimit
from otel_aimon.hinting.concurrency import ConcurrencyAdvisor
from otel_aimon.hinting.intervals import IntervalBuilder
from otel_aimon.hinting.observation import Completed, Slo

BEFORE_A_HINT = 20


class _Controller:
    """Turns the simulator's calls into what the product sees of a request."""

    def __init__(self, slo, seed):
        self.slo = Slo(**slo)
        self.generative = "tpot" in slo

    def completed(self, t, latency, ok, tokens_in, tokens_out, ttft):
        if self.generative:
            return Completed(t, latency, ok, tokens_in, tokens_out, ttft)
        return Completed(t, latency, ok)

    def on_end(self, t, latency, ok, tokens):
        raise NotImplementedError


class EnforcedLimit(_Controller):
    """The limit that the limiter enforces, with first tokens, utilisation and KV cache."""

    def __init__(self, slo, seed):
        super().__init__(slo, seed)
        self.adaptive = AdaptiveLimit(self.slo)

    @property
    def limit(self):
        return self.adaptive.limit

    def on_start(self, t):
        self.adaptive.started(t)

    def on_reject(self, t):
        self.adaptive.rejected()

    def on_end_ex(self, t, latency, ok, tokens_in, tokens_out, ttft, tpot):
        self.adaptive.ended(self.completed(t, latency, ok, tokens_in, tokens_out, ttft))

    def on_util(self, t, utilization, kv_utilization):
        self.adaptive.step(t, utilization, kv_utilization)


class BlindLimit(EnforcedLimit):
    """The same with what any framework gives: starts, ends, output tokens. No first token, utilisation or KV cache."""

    def __init__(self, slo, seed):
        super().__init__(slo, seed)
        self.next = 1.0

    def step(self, t):
        if t >= self.next:
            self.adaptive.step(t)
            self.next = t + 1.0

    def on_start(self, t):
        self.step(t)
        self.adaptive.started(t)

    def on_end_ex(self, t, latency, ok, tokens_in, tokens_out, ttft, tpot):
        self.adaptive.ended(Completed(t, latency, ok, tokens_out=tokens_out if self.generative else None))
        self.step(t)

    on_util = None


class PublishedHint(_Controller):
    """The hint, as published; nothing is enforced."""

    def __init__(self, slo, seed):
        super().__init__(slo, seed)
        self.advisor = ConcurrencyAdvisor(self.slo)
        self.intervals = IntervalBuilder()

    @property
    def limit(self):
        return BEFORE_A_HINT if self.advisor.hint is None else self.advisor.hint.limit

    def on_start(self, t):
        self.intervals.started(t)

    def on_reject(self, t):
        self.intervals.rejected()

    def on_end_ex(self, t, latency, ok, tokens_in, tokens_out, ttft, tpot):
        self.intervals.ended(t, latency, ok=ok)
        self.advisor.add(self.completed(t, latency, ok, tokens_in, tokens_out, ttft))

    def on_util(self, t, utilization, kv_utilization):
        interval = self.intervals.build(t, utilization, kv_utilization)
        if interval is not None:
            self.advisor.step(interval)
