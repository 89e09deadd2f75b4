"""Numbers with units as people write them."""

from __future__ import annotations

import pytest

from otel_aimon.alerts.problems import Wrong
from otel_aimon.alerts.quantities import duration, objective, quantity
from otel_aimon.analysis.slo import Objective


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("90%", "1", 0.9), ("0.9", "1", 0.9), ("-50 %", "1", -0.5), ("1.5", "1", 1.5), ("1e-5", "1", 1e-5),
        ("5m", "s", 300.0), ("500ms", "s", 0.5), ("1h30m", "s", 5400.0), ("2", "s", 2.0), ("1d", "s", 86400.0),
        ("8GiB", "By", 8 * 2.0**30), ("1.5kB", "By", 1500.0), ("100MB/s", "By/s", 1e8), ("1.2GHz", "Hz", 1.2e9),
        ("300W", "W", 300.0), ("5kJ", "J", 5000.0), ("85°C", "Cel", 85.0), ("85C", "Cel", 85.0),
        ("10", "{request}", 10.0), ("14.4", "", 14.4),
    ],
)  # fmt: skip
def test_values(text: str, unit: str, value: float) -> None:
    assert quantity(text, unit, "it") == value


@pytest.mark.parametrize(
    ("text", "unit", "said"),
    [
        ("", "1", "'' is no value for it"),
        ("many", "s", "'many' is no value for it"),
        ("5m 3", "s", "'5m 3' is no value for it"),
        ("5 apples", "s", "'5 apples' has the unknown unit apples"),
        ("5s", "{request}", "unit mismatch: '5s' is a duration, but it is a plain number ({request})"),
        ("5%", "", "unit mismatch: '5%' is a ratio, but it is a plain number"),
        ("1e999", "s", "'1e999' is no finite number"),
        ("1e9999999999999999999", "s", "'1e9999999999999999999' is no finite number"),
        ("nan", "s", "'nan' is no value for it"),
        ("95", "1", "unit mismatch: it is a ratio, so '95' would mean 9500 %"),
    ],
)
def test_what_is_none(text: str, unit: str, said: str) -> None:
    with pytest.raises(Wrong) as caught:
        quantity(text, unit, "it")
    assert caught.value.what == said


def test_a_duration_is_not_negative() -> None:
    with pytest.raises(Wrong, match="it is negative"):
        duration("-5s", "it")


def test_objectives_in_short() -> None:
    assert objective("error", "99.95%") == Objective("error", "error", 0.9995)
    assert objective("tpot", " 99 % <= 80ms ") == Objective("tpot", "tpot", 0.99, 0.08)
    assert objective("mine", "0.9<2s", "e2e", "m") == Objective("mine", "e2e", 0.9, 2.0, "m")


@pytest.mark.parametrize(
    "text", ["", "<", "99% <", "99% < fast", "99% < -1s", "99% < 0s", "fast", "99% < 1s < 2s"]
)
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(Wrong):
        objective("ttft", text)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "1", "x" * 65])
def test_what_names_no_objective(name: str) -> None:
    with pytest.raises(Wrong, match="cannot name an objective"):
        objective(name, "99%", "error")
