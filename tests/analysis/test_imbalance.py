"""One model among several is slow."""

from __future__ import annotations

import random
from math import log

import pytest

from otel_aimon.analysis.autoregression import Autoregression
from otel_aimon.analysis.imbalance import RecentMean, imbalances

WHITE = 0.001


def means(*levels: float, noise: float = 0.0, seed: int = 0, ticks: int = 60) -> list[RecentMean]:
    """Models whose latency is ``level`` times the usual, for ten minutes."""
    chance = random.Random(seed)
    autoregression = Autoregression()
    autoregression.variance = 0.0005
    found = [RecentMean() for _ in levels]
    for _ in range(ticks):
        for mean, level in zip(found, levels, strict=True):
            mean.add(log(level) + chance.gauss(0.0, noise), WHITE, autoregression)
    return found


def test_the_slow_one_is_told_by_its_ratio_to_the_others() -> None:
    found = imbalances(means(1.0, 2.0, 1.0, 1.0))
    assert found[1] == pytest.approx(2.0, rel=0.01)
    assert [found[place] for place in (0, 2, 3)] == [1.0, 1.0, 1.0]


def test_of_two_the_slow_one_is_told() -> None:
    assert imbalances(means(1.0, 1.8)) == {0: 1.0, 1: pytest.approx(1.8, rel=0.01)}


def test_all_slower_alike_is_no_imbalance() -> None:
    assert set(imbalances(means(2.0, 2.0, 2.0)).values()) == {1.0}


def test_noise_is_no_imbalance() -> None:
    for seed in range(50):
        assert set(imbalances(means(1.0, 1.0, 1.0, noise=0.04, seed=seed)).values()) == {1.0}


def test_a_difference_within_what_noise_does_does_not_count() -> None:
    found = means(1.0, 1.6)
    for mean in found:
        mean.variance = 0.02
    assert set(imbalances(found).values()) == {1.0}


def test_a_model_alone_is_compared_with_nothing() -> None:
    assert imbalances(means(3.0)) == {}
    assert imbalances([]) == {}
