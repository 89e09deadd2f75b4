"""Changes that last are told, noise is not."""

from __future__ import annotations

from random import Random

from otel_aimon.hinting.least_squares import Line
from otel_aimon.hinting.shift import Cusum, LineShift, WorkloadShift


def test_noise_is_no_shift() -> None:
    random = Random(1)
    cusum = Cusum()
    assert not any(cusum.add(random.gauss(0, 1)) for _ in range(5000))


def test_a_step_is_told_once_in_either_direction() -> None:
    for sign in (1, -1):
        cusum = Cusum()
        told = [cusum.add(sign * 3.0) for _ in range(3)]
        assert told == [False, False, True]
        assert not cusum.add(0.0)


def test_one_outlier_is_no_shift() -> None:
    cusum = Cusum()
    assert not cusum.add(1e9)
    assert not any(cusum.add(0.0) for _ in range(10))


def test_a_line_that_moves_is_told() -> None:
    line = Line(1.0, 0.1, 0.1, noise_grows=False)
    shift = LineShift()
    assert not shift.step()
    for _ in range(50):
        shift.add(line, 10, 2.05)
        assert not shift.step()
    told = []
    for _ in range(10):
        shift.add(line, 10, 2.4)
        told.append(shift.step())
    assert told.index(True) == 2


def test_longer_prompts_are_told_within_seconds() -> None:
    random = Random(2)
    shift = WorkloadShift()

    def second(mean: float) -> bool:
        for _ in range(8):
            shift.add(int(random.lognormvariate(mean, 1.0)))
        return shift.step()

    assert not any(second(6.0) for _ in range(1000))
    told = [second(7.5) for _ in range(60)]
    assert told.index(True) <= 3
    assert sum(told) == 1
    assert not shift.step()
