"""Alerts and hints are made with the first request, and hand each other what they know."""

from __future__ import annotations

import subprocess
import sys

import otel_aimon
from otel_aimon import runtime
from otel_aimon.watches import Watches
from tests.support.hints import teach
from tests.support.telemetry import Telemetry

ARMED = """
import sys
import otel_aimon
otel_aimon.instrument(resources="none")
heavy = {"otel_aimon.alerts.rules", "otel_aimon.alerts.watch", "otel_aimon.hinting.watch", "otel_aimon.hinting.limiter"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
with otel_aimon.inference("predict", model="m"):
    pass
otel_aimon.force_flush()
assert heavy <= set(sys.modules), heavy - set(sys.modules)
"""


def watches() -> Watches:
    running = runtime.current()
    assert running is not None
    return running.watches


def request() -> None:
    with otel_aimon.inference("predict", model="m"):
        pass
    otel_aimon.force_flush()


def test_a_process_that_serves_nothing_does_not_pay_for_their_import() -> None:
    subprocess.run([sys.executable, "-c", ARMED], check=True)


def test_they_are_made_with_the_first_request() -> None:
    with Telemetry(alerts=True, hints=True):
        assert (watches().alerts, watches().hints) == (None, None)
        request()
        assert watches().alerts is not None
        assert watches().hints is not None


def test_each_can_be_switched_off() -> None:
    with Telemetry(alerts=True, hints=False):
        request()
        assert watches().alerts is not None
        assert watches().hints is None
    with Telemetry(alerts=False, hints=True):
        request()
        assert watches().alerts is None
        assert watches().hints is not None
    with Telemetry(alerts=False, hints=False):
        request()
        assert (watches().alerts, watches().hints) == (None, None)


def test_alerts_know_how_near_each_model_is_to_its_limit() -> None:
    with Telemetry(alerts=True, hints=True):
        request()
        running = runtime.current()
        alerts, hints = watches().alerts, watches().hints
        assert running is not None
        assert alerts is not None
        assert hints is not None
        teach(hints, running.recorder, "taught")
        (evidence,) = alerts.more_evidence()
        assert (evidence.rule, evidence.identity) == (
            "saturation.concurrency",
            (("aimon.model.name", "taught"),),
        )


def test_the_objectives_of_the_alerts_bound_the_hints() -> None:
    with Telemetry(hints=True, slos="tpot=99%<50ms, e2e=99%<2s"):
        request()
        assert watches()._slo("m").tpot == 0.05
        assert watches()._slo("m").latency == 2.0
