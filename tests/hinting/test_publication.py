"""What is published: steady, quick downwards, slow upwards, and never far off for long."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.hinting.confidence import PEAK_SECONDS, Confidence, LoadPeak, confidence
from otel_aimon.hinting.publication import Publication


def follow(publication: Publication, values: list[float], start: float = 0.0) -> list[bool]:
    return [publication.add(value, start + place) for place, value in enumerate(values)]


def test_the_first_value_is_published() -> None:
    publication = Publication()
    assert follow(publication, [50.0]) == [True]
    assert publication.value == 50.0


@given(st.integers(0, 1000))
def test_noise_moves_nothing(seed: int) -> None:
    random = Random(seed)
    publication = Publication()
    publication.add(100.0, 0.0)
    changed = follow(publication, [100 * random.uniform(0.8, 1.2) for _ in range(300)], 1.0)
    assert not any(changed)


def test_down_at_once() -> None:
    publication = Publication()
    publication.add(100.0, 0.0)
    follow(publication, [40.0] * 120, 1.0)
    assert publication.value is not None
    assert publication.value == pytest.approx(40, rel=0.11)


def test_up_by_a_quarter_a_minute() -> None:
    publication = Publication()
    publication.add(100.0, 0.0)
    seen = []
    for second in range(1, 181):
        publication.add(170.0, float(second))
        seen.append(publication.value)
    assert seen[58] == 100
    assert seen[61] == pytest.approx(125)
    assert seen[122] == pytest.approx(156.25)


def test_a_value_that_was_wrong_is_put_right() -> None:
    publication = Publication()
    publication.add(5.0, 0.0)
    follow(publication, [100.0] * 200, 1.0)
    assert publication.value is not None
    assert publication.value > 80


def test_confidence_is_how_near_the_load_came() -> None:
    assert confidence(100, 10, None) is Confidence.LOW
    assert confidence(100, 40, None) is Confidence.MEDIUM
    assert confidence(100, 70, None) is Confidence.HIGH
    assert confidence(100, 10, 30.0) is Confidence.HIGH
    assert confidence(100, 10, 3600.0) is Confidence.LOW


def test_a_peak_is_forgotten_after_two_generations() -> None:
    peak = LoadPeak(0.0)
    peak.add(50, 1.0)
    peak.add(10, PEAK_SECONDS + 1)
    assert peak.value == 50
    peak.add(20, 2 * PEAK_SECONDS + 2)
    assert peak.value == 20
