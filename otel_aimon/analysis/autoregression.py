"""How noisy a quantity is, and how long its noise lasts: an AR(1) process seen through white noise."""

from __future__ import annotations

from math import inf

_LAG = 8
_EVERY = 60
_WARM_UP = 200
LEAST_VARIANCE = 1e-5
"""A floor, so that a flat series does not make every change an infinite one."""

_LONGEST = 0.99
_LARGEST = 1e4
"""Of the square of what is a logarithm nothing is larger."""


class Autoregression:
    """Estimates rho and the variance of ``a_t = rho * a_(t-1) + e_t`` from ``r_t = a_t + white noise``.

    White noise, such as the error of a quantile of few requests, adds to the variance of ``r`` but not to its
    autocovariances: ``c_k = var * rho^k`` for k > 0, so ``rho = (c_(1+L) / c_1)^(1/L)`` and
    ``var = c_1 / rho`` (Box and Jenkins, "Time Series Analysis", chapter 3). The autocovariances are
    exponentially weighted over a day.
    """

    __slots__ = ("_history", "_near", "_seen", "_step", "_wide", "rho", "variance")

    def __init__(self, tick_seconds: float = 10.0) -> None:
        self._history = [0.0] * (_LAG + 2)
        self._near = self._wide = 0.0
        self._seen = 0
        self._step = tick_seconds / 86_400.0
        self.rho = 0.9
        self.variance = 0.005

    def add(self, residual: float) -> None:
        """Take the next residual from the usual level, clipped, while nothing is wrong."""
        history = self._history
        history.insert(0, residual)
        history.pop()
        self._seen += 1
        step = max(self._step, 1.0 / self._seen)
        self._near += step * (residual * history[1] - self._near)
        self._wide += step * (residual * history[1 + _LAG] - self._wide)
        if self._seen % _EVERY == 0 and self._seen > _WARM_UP:
            self._estimate()

    def _estimate(self) -> None:
        ratio = self._wide / self._near if self._near > 0.0 else 0.0
        self.rho = min(_LONGEST, max(0.3, ratio) ** (1.0 / _LAG)) if ratio > 0.0 else 0.5
        self.variance = max(self._near / self.rho, LEAST_VARIANCE)

    def variance_of_mean(self, white: float, ticks: float) -> float:
        """Variance of an exponentially weighted mean.

        Args:
            white: Variance of the white noise in one tick.
            ticks: Time constant of the mean.

        Returns:
            ``(var * (1 + rho) / (1 - rho) + white) / (2 * ticks)``, for means much longer than the noise lasts.
        """
        lasting = self.variance * (1.0 + self.rho) / (1.0 - self.rho)
        return min(self.variance + white, (lasting + white) / (2.0 * ticks))

    def state(self) -> dict[str, float]:
        """What was learned, for a file."""
        return {"near": self._near, "wide": self._wide, "seen": float(self._seen)}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        near, wide, seen = (float(state[name]) for name in ("near", "wide", "seen"))
        if not (abs(near) <= _LARGEST and abs(wide) <= _LARGEST and 0.0 <= seen < inf):
            raise ValueError("noise has finite autocovariances of logarithms")
        self._near, self._wide, self._seen = near, wide, int(seen)
        if self._seen > _WARM_UP:
            self._estimate()
