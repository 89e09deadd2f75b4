"""Evidence is a value: it does not change, and equal readings are equal."""

from __future__ import annotations

import dataclasses

import pytest

from otel_aimon.analysis.evidence import Evidence


def test_it_is_a_value() -> None:
    one = Evidence("stall", (("aimon.model.name", "m"),), 1.5)
    assert one == Evidence("stall", (("aimon.model.name", "m"),), 1.5)
    assert len({one, one}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.score = 2.0  # type: ignore[misc]


def test_what_is_not_said_is_not_known() -> None:
    one = Evidence("stall", (), 1.5)
    assert (one.value, one.baseline, one.samples, one.window, one.trace_ids) == (None, None, 0, 0.0, ())
