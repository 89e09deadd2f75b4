"""Whether one model does it, or all."""

from __future__ import annotations

from otel_aimon.analysis.shared import Shared


def after(ticks: int, *residuals: tuple[float, float]) -> Shared:
    shared = Shared()
    for _ in range(ticks):
        shared.add(residuals)
    return shared


def test_all_models_do_it_from_the_first_tick_on() -> None:
    shared = after(1, (1.0, 0.4), (2.0, 0.4), (1.0, 0.4))
    assert shared.shift
    assert shared.drift


def test_one_model_does_it_however_much_it_weighs() -> None:
    shared = after(30, (100.0, 0.7), (1.0, 0.0), (1.0, 0.02))
    assert not shared.shift
    assert not shared.drift


def test_a_model_alone_shares_nothing() -> None:
    assert not after(30, (1.0, 0.7)).shift
    assert not after(30).shift


def test_what_was_shared_and_then_is_one_models_is_that_models_within_minutes() -> None:
    shared = after(60, (1.0, 0.4), (1.0, 0.4))
    for _ in range(24):
        shared.add([(1.0, 0.4), (1.0, 0.0)])
    assert not shared.shift
