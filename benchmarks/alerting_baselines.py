"""What others alert by, written from the formulas, for the table of ``benchmarks/alerting.py``.

Each takes the data of the synthetic service and returns (tick, rule) for every alert that starts to fire. All see
what a monitor of the whole service sees: the requests of all models, their errors, and the 95th percentile of the
latency, raw, averaged over the models by their requests.
"""

from __future__ import annotations

from math import erf, sqrt

import numpy as np

from otel_aimon.analysis.slo import WINDOWS

TICK_SECONDS = 10
DAY = 86_400 // TICK_SECONDS
KEEP_FIRING_TICKS = 90
"""An alert that fires goes on until it has been clear for 15 minutes, as the product's do."""


def rising_edges(on, rule):
    """Where a condition starts, once for each episode."""
    edges, last = [], -KEEP_FIRING_TICKS
    for tick in np.flatnonzero(on):
        if tick - last > KEEP_FIRING_TICKS:
            edges.append((int(tick), rule))
        last = tick
    return edges


def service(data):
    """Requests, errors and logarithm of the p95 of all models together, by tick."""
    count = data.count.sum(axis=0)
    p95 = (data.count * data.p95).sum(axis=0) / np.maximum(count, 1)
    p95[count == 0] = np.nan
    known = np.flatnonzero(count > 0)
    log_p95 = np.interp(np.arange(data.ticks), known, np.log(p95[known]))
    return count, data.errors.sum(axis=0), log_p95


def over_window(values, ticks):
    """Sum of the last ``ticks`` values."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    start = np.maximum(np.arange(1, len(total)) - ticks, 0)
    return total[1:] - total[start]


def static_thresholds(data):
    """p95 above 1.5 times the median of the first day, or 5 % of errors: for five minutes."""
    count, errors, log_p95 = service(data)
    slow = over_window(log_p95 > np.median(log_p95[:DAY]) + np.log(1.5), 30) == 30
    ratio = over_window(errors, 30) / np.maximum(over_window(count, 30), 1)
    failing = over_window(ratio > 0.05, 30) == 30
    return rising_edges(slow, "p95") + rising_edges(failing, "errors")


def burn_rates(data):
    """Multi-window burn rates: 99.5 % without error, 99 % within what was the 99.5th percentile of the first day.

    Source: Site Reliability Workbook, chapter 5.
    """
    bad_share = np.zeros_like(data.p95)
    for model in range(data.p95.shape[0]):
        sigma = data.log_sd[model]
        middle = np.log(data.p95[model]) - 1.645 * sigma
        limit = np.median(middle[:DAY]) + 2.576 * sigma
        bad_share[model] = 0.5 * (1.0 - np.vectorize(erf)((limit - middle) / (sigma * sqrt(2.0))))
    count = data.count.sum(axis=0)
    slow = (data.count * bad_share).sum(axis=0)
    edges = []
    for name, bad, budget in (("e2e", slow, 0.01), ("error", data.errors.sum(axis=0), 0.005)):
        for pair in WINDOWS:
            rates = []
            for seconds in (pair.long, pair.short):
                ticks = round(seconds / TICK_SECONDS)
                rates.append(over_window(bad, ticks) / np.maximum(over_window(count, ticks), 1) / budget)
            edges += rising_edges(np.minimum(*rates) >= pair.threshold, f"slo.{name}.burn_{pair.name}")
    return edges


def _ewma_scores(values, smoothing):
    """Deviation of each value from the moving average before it, in moving standard deviations."""
    mean, variance = float(values[0]), 0.01
    scores = np.zeros(len(values))
    for tick, value in enumerate(values.tolist()):
        difference = value - mean
        scores[tick] = difference / sqrt(variance + 1e-9)
        mean += smoothing * difference
        variance = (1.0 - smoothing) * (variance + smoothing * difference * difference)
    return scores


def ewma(data, smoothing=0.01):
    """Four moving standard deviations from the moving average, three times running; latency and errors.

    Source: S. W. Roberts, "Control chart tests based on geometric moving averages", Technometrics, 1959.
    """
    count, errors, log_p95 = service(data)
    edges = []
    for rule, values in (("p95", log_p95), ("errors", errors / np.maximum(count, 1))):
        edges += rising_edges(over_window(_ewma_scores(values, smoothing) > 4.0, 3) == 3, rule)
    return edges


def cusum(data, slack=1.0, threshold=25.0):
    """Cumulative sum of standardised deviations from the time-of-day mean; latency and errors.

    Source: E. S. Page, "Continuous inspection schemes", Biometrika, 1954; mean and deviation are those of the
    days before, in half hours.
    """
    count, errors, log_p95 = service(data)
    edges = []
    for rule, values in (("p95", log_p95), ("errors", errors / np.maximum(count, 1))):
        edges += rising_edges(_cusum(values.tolist(), slack) > threshold, rule)
    return edges


def _cusum(values, slack, slots=48):
    levels, weights = [0.0] * slots, [0] * slots
    variance, total = 0.01, 0.0
    sums = np.zeros(len(values))
    for tick, value in enumerate(values):
        slot = tick % DAY * slots // DAY
        if tick >= DAY:
            score = (value - levels[slot]) / sqrt(variance)
            total = min(80.0, max(0.0, total + min(score, 6.0) - slack))
            sums[tick] = total
        limit = 3.0 * sqrt(variance)
        residual = value - levels[slot] if weights[slot] else 0.0
        if not weights[slot]:
            levels[slot] = value
        weights[slot] += 1
        clipped = max(-limit, min(limit, residual)) if tick >= DAY else residual
        levels[slot] += clipped / min(weights[slot] + 1, 4 * DAY // slots)
        variance += max(1.0 / (tick + 1), 1.0 / DAY) * (clipped * clipped - variance)
        variance = max(variance, 1e-8)
    return sums


BASELINES = {
    "static thresholds": static_thresholds,
    "burn rates": burn_rates,
    "EWMA": ewma,
    "CUSUM": cusum,
}
