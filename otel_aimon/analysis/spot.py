"""How improbable is a value, when only the tail of what was seen is known? Streaming extreme value theory.

Source: A. Siffer, P.-A. Fouque, A. Termier and C. Largouet, "Anomaly detection in streams with extreme value
theory", KDD 2017 (SPOT, biSPOT). Beyond a high threshold t, excesses follow a generalised Pareto distribution
(Pickands, Balkema and de Haan), so that

    P(X > t + y) = (N_t / n) (1 + xi y / sigma)^(-1 / xi)

with N_t of n values beyond t. Three things differ from the paper. The threshold follows the stream (a quantile by
stochastic approximation), for no service stays as it was when it started. The distribution is fitted by the
closed quasi-Bayesian estimate of J. Zhang and M. A. Stephens ("A new and efficient estimation method for the
generalized Pareto distribution", Technometrics 2009), which needs no search for roots and cannot fail to
converge. And it is fitted anew only once a share of the excesses is new, so that an update is cheap.
"""

from __future__ import annotations

from collections import deque
from math import exp, expm1, log, log1p, sqrt

CALIBRATION = 200
"""Values that are seen before anything is said: four of them lie beyond the 98th percentile."""

LEVEL = 0.98
"""Share of values below the threshold, as in the paper."""

PEAKS = 100
"""Excesses that are kept: the latest 5,000 values' worth of them."""

_REFIT_SHARE = 0.1
_MEMORY = 5000
"""Values after which a value counts for 1/e in the share of excesses and in the threshold."""

_LEAST_PEAKS = 4
_PRIOR_PEAKS = 10.0
_PRIOR_SHAPE = 0.1
_LEAST_PROBABILITY = 1e-300


def fit_pareto(excesses: list[float]) -> tuple[float, float]:
    """Shape and scale of the generalised Pareto distribution that excesses follow.

    Args:
        excesses: Positive, in any order.

    Returns:
        (xi, sigma). Without any spread that could be told: (0, the mean), an exponential distribution. With few
        excesses the shape is drawn towards a slightly heavy tail, as A. Vehtari et al. do (PSIS, 2015).
    """
    count = len(excesses)
    if count == 0:
        return 0.0, 0.0
    mean = sum(excesses) / count
    if count < _LEAST_PEAKS or mean <= 0.0:
        return 0.0, mean
    ordered = sorted(excesses)
    largest, quartile = ordered[-1], ordered[max(0, int(count / 4.0 + 0.5) - 1)]
    if quartile <= 1e-9 * largest:
        return 0.0, mean
    grid = 10 + int(sqrt(count))
    thetas = [1.0 / largest + (1.0 - sqrt(grid / (place + 0.5))) / (3.0 * quartile) for place in range(grid)]
    likelihoods = [_profile(theta, ordered) for theta in thetas]
    best = max(likelihoods)
    weights = [exp(each - best) for each in likelihoods]
    theta = sum(map(_product, thetas, weights)) / sum(weights)
    if theta == 0.0:
        return 0.0, mean
    shape = sum(log1p(-theta * each) for each in ordered) / count
    scale = -shape / theta
    shape = (shape * count + _PRIOR_SHAPE * _PRIOR_PEAKS) / (count + _PRIOR_PEAKS)
    return shape, scale


def _product(one: float, other: float) -> float:
    return one * other


def _profile(theta: float, ordered: list[float]) -> float:
    """Log-likelihood of the best distribution with ``theta`` = -xi / sigma."""
    count = len(ordered)
    if theta == 0.0:
        return -count * (log(sum(ordered) / count) + 1.0)
    shape = sum(log1p(-theta * each) for each in ordered) / count
    return count * (log(-theta / shape) - shape - 1.0)


class Spot:
    """One tail, the upper one, of one stream.

    Attributes:
        threshold: Beyond it lies the tail.
        shape: xi of the tail: above 0 it is heavy, below 0 it ends somewhere.
        scale: sigma of the tail, in the unit of the values.
    """

    __slots__ = (
        "_fresh",
        "_level",
        "_peaks",
        "_seen",
        "_share",
        "_step",
        "_warmup",
        "scale",
        "shape",
        "threshold",
    )

    def __init__(self, level: float = LEVEL, calibration: int = CALIBRATION, peaks: int = PEAKS) -> None:
        """Know nothing yet.

        Args:
            level: Share of values below the threshold.
            calibration: Values that are seen before anything is said.
            peaks: Excesses that are kept.
        """
        self._level = level
        self._seen = 0
        self._share = 1.0 - level
        self._warmup: list[float] | None = []
        self._step = calibration * 1.0
        self._peaks: deque[float] = deque(maxlen=peaks)
        self._fresh = 0
        self.threshold = self.shape = self.scale = 0.0

    @property
    def ready(self) -> bool:
        """Whether enough was seen to say anything."""
        return self._warmup is None

    def probability(self, value: float) -> float:
        """Probability of a value as large as this or larger.

        Args:
            value: In the unit of the stream.

        Returns:
            From 0 to 1; within the bulk, below the threshold, 1. Also 1 before anything can be said.
        """
        if self._warmup is not None or value <= self.threshold:
            return 1.0
        return self._share * self._survival(value - self.threshold)

    def _survival(self, excess: float) -> float:
        """Share of the excesses that are larger."""
        if self.scale <= 0.0:
            return _LEAST_PROBABILITY
        relative = excess / self.scale
        if abs(self.shape) < 1e-6:
            return max(_LEAST_PROBABILITY, exp(-min(relative, 690.0)))
        base = 1.0 + self.shape * relative
        if base <= 0.0:
            return _LEAST_PROBABILITY
        return max(_LEAST_PROBABILITY, exp(max(-690.0, -log(base) / self.shape)))

    def quantile(self, probability: float) -> float:
        """The value that is exceeded with a probability.

        Args:
            probability: Below the share of excesses; 1e-4, say.

        Returns:
            In the unit of the stream.
        """
        ratio = log(max(probability, _LEAST_PROBABILITY) / self._share)
        if abs(self.shape) < 1e-6:
            return self.threshold - self.scale * ratio
        return self.threshold + self.scale * expm1(-self.shape * ratio) / self.shape

    def update(self, value: float) -> float:
        """Say how improbable the next value is, and learn from it.

        Args:
            value: In the unit of the stream; not NaN.

        Returns:
            ``probability`` of it, before it was learned from.
        """
        probability = self.probability(value)
        self.learn(value)
        return probability

    def learn(self, value: float) -> None:
        """Learn from a value without judging it.

        Args:
            value: In the unit of the stream; not NaN.
        """
        if self._warmup is not None:
            self._calibrate(value)
            return
        self._seen += 1
        pace = 1.0 / min(self._seen, _MEMORY)
        beyond = value > self.threshold
        self._share += pace * (beyond - self._share)
        if beyond:
            self._peaks.append(value)
            self._fresh += 1
            if self._fresh >= _REFIT_SHARE * len(self._peaks):
                self._fit()

    def _calibrate(self, value: float) -> None:
        """Collect the first values; place the threshold once there are enough."""
        warmup = self._warmup
        if warmup is None:
            return
        warmup.append(value)
        if len(warmup) < self._step:
            return
        ordered = sorted(warmup)
        self._seen = len(ordered)
        place = min(len(ordered) - 2, int(self._level * len(ordered)))
        self.threshold = ordered[max(place, 0)]
        self._peaks.extend(each for each in warmup if each > self.threshold)
        self._share = max(len(self._peaks), 1) / self._seen
        self._warmup = None
        self._fit()

    def _fit(self) -> None:
        """Fit the tail to the excesses that are kept."""
        self._fresh = 0
        self.shape, self.scale = fit_pareto(
            [each - self.threshold for each in self._peaks if each > self.threshold]
        )


class TwoSidedSpot:
    """Both tails of one stream (biSPOT)."""

    __slots__ = ("lower", "upper")

    def __init__(self, level: float = LEVEL, calibration: int = CALIBRATION, peaks: int = PEAKS) -> None:
        """Know nothing yet; the arguments are those of ``Spot``."""
        self.upper = Spot(level, calibration, peaks)
        self.lower = Spot(level, calibration, peaks)

    @property
    def ready(self) -> bool:
        """Whether enough was seen to say anything."""
        return self.upper.ready

    def update(self, value: float) -> float:
        """Say how improbable the next value is, on its side, and learn from it."""
        return min(self.upper.update(value), self.lower.update(-value))
