"""Engines whose key-value cache is full, or that preempt what they have begun."""

from __future__ import annotations

import pytest

from otel_aimon.analysis.engine_watch import WINDOW, EngineWatch
from otel_aimon.core.engines import Engine


def engine(number: str = "0", **values: object) -> Engine:
    made = Engine(
        {"aimon.framework": "vllm", "aimon.model.name": "m", "aimon.engine.id": number},
    )
    for name, value in values.items():
        setattr(made, name, value)
    return made


def scores(watch: EngineWatch, now: float, *engines: Engine) -> dict[tuple[str, str], float]:
    return {
        (each.rule, dict(each.identity)["aimon.engine.id"]): each.score
        for each in watch.evidence(engines, now)
    }


def test_how_full_the_cache_is() -> None:
    watch = EngineWatch()
    assert scores(watch, 0.0, engine("0", kv_cache=0.5), engine("1", kv_cache=0.95)) == {
        ("kv.pressure", "0"): 0.5,
        ("kv.pressure", "1"): 0.95,
    }
    assert watch.kv_cache == 0.95


def test_preemptions_by_the_second_over_a_minute() -> None:
    watch = EngineWatch()
    assert scores(watch, 0.0, engine(preemptions=7)) == {("kv.preemptions", "0"): 0.0}
    assert scores(watch, 10.0, engine(preemptions=13)) == {("kv.preemptions", "0"): pytest.approx(6 / WINDOW)}
    assert watch.preemptions == pytest.approx(0.1)
    assert scores(watch, 100.0, engine(preemptions=13)) == {("kv.preemptions", "0"): 0.0}


def test_an_engine_that_tells_nothing_is_not_judged() -> None:
    watch = EngineWatch()
    assert scores(watch, 0.0, engine()) == {}
    assert (watch.kv_cache, watch.preemptions) == (None, None)


def test_an_engine_that_is_gone_is_forgotten_and_a_new_one_begins_at_its_own_count() -> None:
    watch = EngineWatch()
    scores(watch, 0.0, engine(preemptions=50))
    scores(watch, 1.0)
    assert scores(watch, 2.0, engine(preemptions=80)) == {("kv.preemptions", "0"): 0.0}
    assert scores(watch, 3.0, engine(preemptions=10)) == {("kv.preemptions", "0"): 0.0}
