"""What a request costs beside its tokens, in tokens: latency is ``a + b * tokens``, and this is ``a / b``.

Latency divided by tokens alone falls as answers become longer, and grows as they become shorter: the time to the
first token is shared by more of them, or fewer. Divided by ``tokens + a / b`` it stays the same.
"""

from __future__ import annotations

from math import isfinite, log
from typing import NamedTuple

from otel_aimon.analysis.daily_profile import DAY_SECONDS

LEAST_REQUESTS = 200
"""With fewer, nothing is known."""

LEAST_VARIATION = 0.1
"""Standard deviation of the tokens, as a share of their mean, below which their effect cannot be seen."""

MOST = 10.0
"""Times the mean tokens: latency that hardly depends on the tokens."""

_LEAST_T_SQUARED = 25.0
_LEAST_CHANGE = 0.02


class Moments(NamedTuple):
    """Sums over requests.

    Attributes:
        requests: How many.
        tokens: Their tokens.
        seconds: Their latencies.
        tokens_squared: Squares of the tokens.
        seconds_squared: Squares of the latencies.
        products: Tokens times latency.
    """

    requests: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    tokens_squared: float = 0.0
    seconds_squared: float = 0.0
    products: float = 0.0


class TokenOverhead:
    """A regression of latency on tokens, exponentially weighted over a day.

    Args:
        tick_seconds: Time between two ticks.

    Attributes:
        tokens: The overhead, in tokens; 0 as long as nothing is known.
    """

    __slots__ = ("_kept", "_sums", "tokens")

    def __init__(self, tick_seconds: float) -> None:
        self._kept = 1.0 - tick_seconds / DAY_SECONDS
        self._sums = Moments()
        self.tokens = 0.0

    def learn(self, seen: Moments) -> float:
        """Take what ended in a tick, while nothing is wrong.

        Args:
            seen: Requests that succeeded and whose tokens are known.

        Returns:
            By how much the logarithm of the normalised latency moves, because the overhead is known better now.
        """
        self._sums = Moments(*(old * self._kept + new for old, new in zip(self._sums, seen, strict=True)))
        before, now = self.tokens, self._estimate()
        mean = self._sums.tokens / self._sums.requests if self._sums.requests else 0.0
        if mean <= 0.0 or abs(now - before) <= _LEAST_CHANGE * (mean + before):
            return 0.0
        self.tokens = now
        return log((mean + before) / (mean + now))

    def _estimate(self) -> float:
        """``a / b`` by least squares; 0 where the tokens do not explain the latency."""
        count, tokens, seconds, tokens_squared, seconds_squared, products = self._sums
        if count < LEAST_REQUESTS:
            return 0.0
        mean, latency = tokens / count, seconds / count
        spread = tokens_squared / count - mean * mean
        covariance = products / count - mean * latency
        noise = seconds_squared / count - latency * latency
        if spread < (LEAST_VARIATION * mean) ** 2 or covariance <= 0.0 or noise <= 0.0:
            return 0.0
        explained = min(covariance * covariance / (spread * noise), 0.999999)
        if explained / (1.0 - explained) * count < _LEAST_T_SQUARED:
            return 0.0
        slope = covariance / spread
        return min(MOST * mean, max(0.0, latency / slope - mean))

    def state(self) -> dict[str, object]:
        """What was learned, for a file."""
        return {"sums": list(self._sums), "tokens": self.tokens}

    def restore(self, state: dict[str, object]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        found = state["sums"]
        if not isinstance(found, list) or len(found) != len(Moments._fields):
            raise ValueError("an overhead has six sums")
        sums, tokens = [float(each) for each in found], float(str(state["tokens"]))
        if not all(isfinite(each) and each >= 0.0 for each in (*sums, tokens)):
            raise ValueError("the sums of an overhead are finite and not negative")
        self._sums, self.tokens = Moments(*sums), tokens
