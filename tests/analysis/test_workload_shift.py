"""Requests have another size than usual."""

from __future__ import annotations

import random
from math import exp, pi, sin

from otel_aimon.alerts.rules import RULES
from otel_aimon.analysis.workload_shift import WorkloadShift

TICK = 10.0
DAY = 8640
ON = next(rule.on for rule in RULES if rule.name == "workload.shift")


def sizes(seed: int, ticks: int, *, rho: float = 0.0, sigma: float = 0.1, rhythm: float = 0.0) -> list[float]:
    """Mean tokens of a request, tick by tick."""
    chance = random.Random(seed)
    noise, found = 0.0, []
    for tick in range(ticks):
        noise = rho * noise + chance.gauss(0.0, sigma * (1 - rho * rho) ** 0.5)
        found.append(500.0 * exp(noise + rhythm * sin(2 * pi * tick / DAY)))
    return found


def follow(
    watch: WorkloadShift, values: list[float], *, start: int = 0, cautious: bool = True
) -> list[float]:
    scores = []
    for tick, value in enumerate(values, start):
        watch.add(tick * TICK, value, cautious=cautious)
        scores.append(watch.score)
    return scores


def learned(seed: int = 1, **noise: float) -> WorkloadShift:
    watch = WorkloadShift(TICK)
    follow(watch, sizes(seed, DAY, **noise), cautious=False)
    return watch


def test_longer_prompts_are_told_within_minutes() -> None:
    scores = follow(learned(), [1.7 * value for value in sizes(2, 30)], start=DAY)
    assert next(tick for tick, score in enumerate(scores) if score >= ON) < 12


def test_shorter_ones_too() -> None:
    assert max(follow(learned(), [value / 1.7 for value in sizes(2, 30)], start=DAY)) >= ON


def test_noise_that_lasts_and_the_rhythm_of_the_day_are_none() -> None:
    watch = learned(rho=0.9, rhythm=0.3)
    assert max(follow(watch, sizes(3, DAY, rho=0.9, rhythm=0.3), start=DAY)) < ON


def test_what_is_told_does_not_become_usual_while_it_is() -> None:
    watch = learned()
    usual = watch.usual
    follow(watch, [2.0 * value for value in sizes(2, 360)], start=DAY)
    assert usual is not None and watch.usual is not None
    assert watch.usual / usual < 1.2


def test_what_was_learned_is_restored() -> None:
    watch = learned()
    other = WorkloadShift(TICK)
    other.restore(watch.state())
    shifted = [1.7 * value for value in sizes(2, 30)]
    watch._more = watch._less = 0.0  # only what was learned is kept
    assert follow(watch, shifted, start=DAY) == follow(other, shifted, start=DAY)
