"""One series of any metric: what counts as an incident, what does not, and that each is told once."""

from __future__ import annotations

import random
from math import inf, nan, pi, sin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.anomaly import AnomalyDetector

STEP = 300
DAY = 86_400 // STEP
CERTAIN = 0.5
"""A score that stands for a probability of 1e-5."""


def detections(values, least=CERTAIN, step=STEP):
    """Places at which an incident starts, or becomes worse."""
    detector = AnomalyDetector()
    scores = [detector.update(place * step, value) for place, value in enumerate(values)]
    return [place for place, score in enumerate(scores) if score is not None and score >= least]


def noise(count, spread=1.0, seed=1):
    generator = random.Random(seed)
    return [100.0 + generator.gauss(0.0, spread) for _ in range(count)]


def rhythm(days, seed=1, amplitude=50.0):
    generator = random.Random(seed)
    return [
        100.0 + amplitude * sin(2 * pi * place / DAY) + generator.gauss(0.0, 1.0)
        for place in range(days * DAY)
    ]


def test_it_says_nothing_while_it_learns():
    detector = AnomalyDetector()
    scores = [detector.update(place * STEP, value) for place, value in enumerate(noise(200))]
    assert scores[:150] == [None] * 150
    assert None not in scores[150:]
    assert detector.ready


def test_a_spike_is_one_detection():
    values = noise(2000)
    values[1500] = 130.0
    assert detections(values) == [1500]


def test_a_dip_is_one_detection():
    values = noise(2000)
    values[1500] = 70.0
    assert detections(values) == [1500]


def test_the_reason_and_the_deviation_are_told():
    detector = AnomalyDetector()
    for place, value in enumerate(noise(1000)):
        detector.update(place * STEP, value)
    assert detector.update(1000 * STEP, 130.0) == pytest.approx(1.0, abs=0.3)
    assert detector.reason == "level"
    assert detector.deviation == pytest.approx(30.0, abs=2.0)
    assert detector.evidence > 5.0
    detector.update(1001 * STEP, 100.0)
    assert detector.reason in {"", "burst"}


def test_a_step_is_one_detection_though_it_lasts():
    values = noise(1500) + [value + 20.0 for value in noise(1500, seed=2)]
    assert detections(values) == [1500]


def test_evidence_stays_while_an_incident_lasts():
    detector = AnomalyDetector()
    for place, value in enumerate(noise(1000)):
        detector.update(place * STEP, value)
    for place in range(1000, 1010):
        detector.update(place * STEP, 130.0)
        assert detector.evidence > 2.0


def test_an_incident_that_becomes_much_worse_is_told_again():
    values = noise(2000)
    values[1500:1510] = [102.5] * 10
    values[1510:1520] = [400.0] * 10
    found = [place for place in detections(values, least=0.25) if place >= 1400]
    assert found[0] in range(1500, 1510)
    assert found[-1] in {1510, 1511}


def test_many_small_deviations_to_one_side_are_found():
    values = noise(3000)
    values[2500:2600] = [value + 2.5 for value in values[2500:2600]]
    detector = AnomalyDetector()
    reasons = []
    for place, value in enumerate(values):
        score = detector.update(place * STEP, value)
        if score and score >= CERTAIN:
            reasons.append((place, detector.reason))
    assert [reason for _, reason in reasons] == ["burst"]
    assert reasons[0][0] in range(2500, 2512)


def test_what_should_have_come_and_did_not_is_found():
    values = rhythm(10)
    morning = 8 * DAY
    values[morning : morning + DAY // 2] = noise(DAY // 2)
    found = [place for place in detections(values) if place > 4 * DAY]
    assert len(found) in {1, 2}
    assert all(place in range(morning, morning + DAY // 4) for place in found)


def test_a_rhythm_by_day_is_no_anomaly_once_it_is_known():
    assert [place for place in detections(rhythm(14)) if place > 3 * DAY] == []


def test_a_spike_at_the_same_time_every_day_becomes_known():
    values = noise(10 * DAY)
    for day in range(10):
        values[day * DAY + 100 + day % 3] = 160.0
    found = detections(values, least=0.4)
    assert all(place < 3 * DAY for place in found)


@pytest.mark.parametrize("value", [0.0, 5.0, -1e12])
def test_a_flat_line_is_no_anomaly(value):
    assert detections([value] * 3000, least=0.0001) == []


def test_the_first_change_of_a_flat_line_is_found():
    assert detections([5.0] * 1000 + [6.0] + [5.0] * 100) == [1000]


def test_rounding_is_no_anomaly():
    values = [5.0] * 1000
    values[700:] = [5.0 + 1e-9 * (place % 7) for place in range(300)]
    assert detections(values, least=0.0001) == []


def test_noise_is_seldom_an_anomaly():
    assert len(detections(noise(20_000), least=CERTAIN)) <= 3


def test_a_heavy_tail_is_seldom_an_anomaly():
    generator = random.Random(4)
    assert len(detections([generator.paretovariate(1.5) for _ in range(20_000)])) <= 8


def test_the_unit_of_the_metric_does_not_matter():
    values = noise(2000)
    values[1500] = 130.0
    scores = []
    for factor in (1.0, 2.0**-30, 2.0**40):
        detector = AnomalyDetector()
        scores.append([detector.update(place * STEP, value * factor) for place, value in enumerate(values)])
    assert scores[0][150:] == pytest.approx(scores[1][150:])
    assert scores[0][150:] == pytest.approx(scores[2][150:])


@pytest.mark.parametrize("step", [1, 10, 60, 3600])
def test_any_step_does(step):
    values = noise(2000)
    values[1500] = 130.0
    assert detections(values, step=step) == [1500]


@pytest.mark.parametrize(
    ("time", "value"), [(0.0, nan), (0.0, inf), (nan, 1.0), (-inf, 1.0), (0.0, 1e300), (1e30, 1.0)]
)
def test_what_is_no_number_of_a_metric_is_passed_over(time, value):
    values = noise(500)
    clean, dirty = AnomalyDetector(), AnomalyDetector()
    for place, each in enumerate(values):
        assert dirty.update(time, value) is None
        assert clean.update(place * STEP, each) == dirty.update(place * STEP, each)


def test_it_does_not_look_ahead():
    values = rhythm(6)
    whole, part = AnomalyDetector(), AnomalyDetector()
    scores = [whole.update(place * STEP, value) for place, value in enumerate(values)]
    assert [part.update(place * STEP, value) for place, value in enumerate(values[:1000])] == scores[:1000]


@given(st.lists(st.tuples(st.floats(-9e17, 9e17), st.floats(-9e17, 9e17)), max_size=60))
def test_any_series_has_scores(rows):
    detector = AnomalyDetector()
    for place in range(160):
        detector.update(place * STEP, place % 5)
    for time, value in rows:
        score = detector.update(time, value)
        assert score is not None
        assert 0.0 <= score <= 1.0
