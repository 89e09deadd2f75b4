"""A process in which each model has twenty slots, until something is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import copy_context

import pytest

import otel_aimon
from otel_aimon.hinting.limiter import Limiter
from otel_aimon.hinting.limiters import LIMITERS
from tests.support.telemetry import Telemetry

SLOTS = 20


class Slots:
    """Those of the model ``m``."""

    @property
    def limiter(self) -> Limiter:
        return LIMITERS.get("m")

    @property
    def held(self) -> int:
        return self.limiter.in_flight

    def take(self, number: int = SLOTS) -> None:
        """Take some of them for ever."""
        for _ in range(number):
            copy_context().run(otel_aimon.limiter("m").__enter__)

    def ended(self) -> list[bool]:
        """How the requests ended that gave a slot back: True is well."""
        return [ok for _, _, ok in self.limiter._ended]


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slots]:
    LIMITERS._by_model.clear()
    # Nobody moves the limits: what ended stays to be looked at.
    monkeypatch.setattr(Limiter, "step", lambda *_: None)
    with Telemetry(limiter="enforce"):
        yield Slots()
    LIMITERS._by_model.clear()
