"""How improbable is a value, when only the tail of what was seen is known? Streaming extreme value theory.

Source: A. Siffer, P.-A. Fouque, A. Termier and C. Largouet, "Anomaly detection in streams with extreme value
theory", KDD 2017 (SPOT, biSPOT). Beyond a high threshold t, excesses follow a generalised Pareto distribution
(Pickands, Balkema and de Haan), so that

    P(X > t + y) = (N_t / n) (1 + xi y / sigma)^(-1 / xi)

with N_t of n values beyond t. What differs from the paper:

- The threshold and the share beyond it follow the stream, for no service stays as it was when it started. The
  threshold moves by stochastic approximation of a quantile (H. Robbins and S. Monro, 1951).
- The distribution is fitted by the closed estimate of J. Zhang and M. A. Stephens ("A new and efficient estimation
  method for the generalized Pareto distribution", Technometrics 2009): there is no search for roots that could fail.
  It is fitted anew only once a tenth of the excesses is new, so that an update is cheap.
- Excesses that follow one another are one cluster, of which the largest counts (A. C. Davison and R. L. Smith, "Models
  for exceedances over high thresholds", Journal of the Royal Statistical Society B, 1990). Without that, a deviation
  that grows slowly, or a statistic that is smooth, would teach the tail that each of its values is usual. N_t is the
  number of clusters, so that the probability is the rate of incidents, not of values.
- An extreme value is learned from as if it were the 1e-5 quantile (winsorised): one incident does not make the next
  one look usual, and a new usual is still learned.
"""

from __future__ import annotations

from array import array
from math import exp, expm1, inf, log, log1p, sqrt

LEVEL = 0.98
"""Share of values below the threshold, as in the paper."""

CALIBRATION = 150
"""Values that are seen before anything is said: the fewest of which some lie beyond the threshold."""

PEAKS = 50
"""Excesses that are kept: those of the last 2,500 values, or of more where they come in clusters."""

LEAST_PROBABILITY = 1e-10
"""Less is not told apart: no tail is known that far."""

_MEMORY = 5000
"""Values after which a value counts for 1/e in the threshold and the share."""

_REFIT_SHARE = 0.1
_WINSOR = 1e-5
_CLUSTER_GAP = 3
"""Values that are not beyond the threshold, after which the next one that is starts a cluster."""

_LONGEST_CLUSTER = 30
"""Values beyond the threshold after which the same cluster counts once more: what goes on is learned in the end."""

_LEAST_PEAKS = 4
_LEAST_EXCESS = 1e-150
_LEAST_SHAPE = -0.5
"""Below it, the likelihood of the distribution is not regular (R. L. Smith, 1985), and its end is where the largest
excess happened to be."""

_TOLERANCE = 1.1
"""Excesses are taken for a tenth smaller: an end of the tail is not known more exactly than that."""

_PRIOR_PEAKS = 10.0
_PRIOR_SHAPE = 0.1


def fit_pareto(excesses: list[float]) -> tuple[float, float]:
    """Shape and scale of the generalised Pareto distribution that excesses follow.

    Args:
        excesses: Positive, in any order.

    Returns:
        (xi, sigma). With fewer than four, or without a spread that could be told, (0, the mean): an exponential
        distribution. With few the shape is drawn towards a slightly heavy tail, as A. Vehtari et al. do ("Pareto
        smoothed importance sampling", 2015).
    """
    count = len(excesses)
    mean = sum(excesses) / count if count else 0.0
    if count < _LEAST_PEAKS:
        return 0.0, mean
    ordered = sorted(excesses)
    largest, quartile = ordered[-1], ordered[max(0, int(count / 4.0 + 0.5) - 1)]
    if quartile <= 1e-9 * largest or largest < _LEAST_EXCESS:
        return 0.0, mean
    grid = 10 + int(sqrt(count))
    candidates = [
        1.0 / largest + (1.0 - sqrt(grid / (place + 0.5))) / (3.0 * quartile) for place in range(grid)
    ]
    likelihoods = [_profile_likelihood(theta, ordered) for theta in candidates]
    best = max(likelihoods)
    weights = [exp(each - best) for each in likelihoods]
    theta = sum(each * weight for each, weight in zip(candidates, weights, strict=True)) / sum(weights)
    if abs(theta) * largest < 1e-9:
        return 0.0, mean
    raw = sum(log1p(-theta * each) for each in ordered) / count
    scale = -raw / theta
    shape = (raw * count + _PRIOR_SHAPE * _PRIOR_PEAKS) / (count + _PRIOR_PEAKS)
    if shape < _LEAST_SHAPE:
        scale *= (1.0 - _LEAST_SHAPE) / (1.0 - shape)  # The same mean excess, sigma / (1 - xi).
        shape = _LEAST_SHAPE
    return shape, scale


def _profile_likelihood(theta: float, excesses: list[float]) -> float:
    """Log-likelihood of the best distribution with ``theta`` = -xi / sigma."""
    count = len(excesses)
    shape = sum(log1p(-theta * each) for each in excesses) / count
    if abs(shape) < 1e-12:
        return -count * (log(sum(excesses) / count) + 1.0)
    return count * (log(-theta / shape) - shape - 1.0)


class Spot:
    """One tail, the upper one, of one stream.

    Attributes:
        threshold: Beyond it lies the tail. In the unit of the values, as is ``scale``.
        shape: xi of the tail: above 0 it is heavy, below 0 it ends somewhere.
        scale: sigma of the tail; 0 while no value is known to be beyond the threshold.
        share: Of the values, those that start a cluster beyond the threshold.
    """

    __slots__ = (
        "_calibration",
        "_cluster",
        "_fresh",
        "_lasts",
        "_level",
        "_limit",
        "_most_peaks",
        "_newest",
        "_peaks",
        "_seen",
        "_warmup",
        "scale",
        "shape",
        "share",
        "threshold",
    )

    def __init__(self, level: float = LEVEL, calibration: int = CALIBRATION, peaks: int = PEAKS) -> None:
        """Know nothing yet.

        Args:
            level: Share of values below the threshold.
            calibration: Values that are seen before anything is said; from 2 on.
            peaks: Excesses that are kept.
        """
        self._level = level
        self._calibration = calibration
        self._warmup: list[float] | None = []
        self._seen = 0
        self._most_peaks = peaks
        self._peaks = array("d")
        self._newest = self._cluster = self._lasts = 0
        self._fresh = 0
        self._limit = inf
        self.threshold = self.shape = self.scale = 0.0
        self.share = 1.0 - level

    @property
    def ready(self) -> bool:
        """Whether enough was seen to say anything."""
        return self._warmup is None

    def probability(self, value: float) -> float:
        """Probability that a value starts a cluster that becomes as large as this or larger.

        Args:
            value: In the unit of the stream.

        Returns:
            From ``LEAST_PROBABILITY`` to the share of the tail. Where the value is not beyond the threshold, and before
            anything can be said: 1.
        """
        excess = (value - self.threshold) / _TOLERANCE
        if excess <= 0.0 or self._warmup is not None:
            return 1.0
        if self.scale <= 0.0:
            return LEAST_PROBABILITY
        relative = excess / self.scale
        if abs(self.shape) < 1e-6:
            exponent = -relative
        else:
            base = 1.0 + self.shape * relative
            exponent = -log(base) / self.shape if base > 0.0 else -inf
        return max(LEAST_PROBABILITY, self.share * exp(max(-50.0, exponent)))

    def quantile(self, probability: float) -> float:
        """The value that is exceeded with a probability.

        Args:
            probability: Smaller than the share of the tail; 1e-4, say.

        Returns:
            In the unit of the stream.
        """
        ratio = log(probability / max(self.share, probability))
        if abs(self.shape) < 1e-6:
            return self.threshold - self.scale * ratio
        return self.threshold + self.scale * expm1(-self.shape * ratio) / self.shape

    def update(self, value: float) -> float:
        """Say how improbable the next value is, then learn from it.

        Args:
            value: In the unit of the stream; finite.

        Returns:
            Its ``probability``.
        """
        if self._warmup is not None:
            self._calibrate(value, self._warmup)
            return 1.0
        if self._seen < _MEMORY:
            self._seen += 1
        if value <= self.threshold:
            self._within()
            return 1.0
        probability = self.probability(value)
        self._beyond(min(value, self._limit))
        return probability

    def _within(self) -> None:
        """Learn from a value that is not beyond the threshold."""
        self.threshold -= self.scale / self._seen
        self.share -= self.share / self._seen
        if self._cluster:
            self._cluster -= 1

    def _beyond(self, value: float) -> None:
        """Learn from a value beyond the threshold: it starts a cluster, or may be the largest of one."""
        starts = not self._cluster or self._lasts >= _LONGEST_CLUSTER
        self._cluster = _CLUSTER_GAP
        self._lasts = 0 if starts else self._lasts + 1
        self.share += (starts - self.share) / self._seen
        if starts:
            self._keep(value)
        elif value > self._peaks[self._newest]:
            self._peaks[self._newest] = value
        if self._fresh >= _REFIT_SHARE * len(self._peaks) or self.scale <= 0.0:
            self._fit()
        # The step of Robbins and Monro, 1 / (n density), with the density at the threshold, (1 - level) / sigma.
        self.threshold += self.scale * self._level / (1.0 - self._level) / self._seen

    def _calibrate(self, value: float, warmup: list[float]) -> None:
        """Collect the first values; place the threshold once there are enough."""
        warmup.append(value)
        if len(warmup) < self._calibration:
            return
        self._warmup = None
        self._seen = len(warmup)
        self.threshold = sorted(warmup)[max(0, int(self._level * len(warmup)) - 1)]
        for each in warmup:
            if each > self.threshold:
                self._keep(each)
        self.share = max(len(self._peaks), 1) / self._seen
        self._fit()

    def _keep(self, peak: float) -> None:
        """Keep one value beyond the threshold, in place of the oldest if there are enough."""
        self._fresh += 1
        if len(self._peaks) < self._most_peaks:
            self._peaks.append(peak)
            self._newest = len(self._peaks) - 1
            return
        self._newest = (self._newest + 1) % self._most_peaks
        self._peaks[self._newest] = peak

    def _fit(self) -> None:
        """Fit the tail to the excesses that are kept."""
        self._fresh = 0
        threshold = self.threshold
        self.shape, self.scale = fit_pareto([each - threshold for each in self._peaks if each > threshold])
        self._limit = self.quantile(_WINSOR) if self.scale > 0.0 else inf


class TwoSidedSpot:
    """Both tails of one stream (biSPOT), for values that may be too large or too small.

    Attributes:
        upper: The tail of large values.
        lower: The tail of small ones, of the negated stream.
    """

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
        """Say how improbable the next value is, on its side, then learn from it.

        Args:
            value: In the unit of the stream; finite.

        Returns:
            Probability of a value as far out on the same side; 1 between the two thresholds.
        """
        return min(self.upper.update(value), self.lower.update(-value))
