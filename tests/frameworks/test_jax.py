"""JAX, for real: functions that are asked for are recorded until their result is there, and compilations are told."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax._src import monitoring

import otel_aimon
from tests.frameworks.request_spans import request_span
from tests.support.telemetry import Telemetry

span = functools.partial(request_span, "jax")
WEIGHTS, ROWS = jnp.ones((8, 4)), jnp.ones((5, 8))


def fresh() -> Any:
    """A function that JAX has not compiled."""

    def score(weights: Any, rows: Any) -> Any:
        return {"scores": rows @ weights}

    return jax.jit(score)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("jax",)) as running:
        yield running


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    """All spans, without the time of the compiler, which must be there only once per function."""
    found = telemetry.spans()
    compiled = [each["attributes"].pop("aimon.compile.duration", None) for each in found]
    assert all(each is None or each > 0 for each in compiled)
    return found


class TestRequests:
    def test_a_call(self, telemetry: Telemetry) -> None:
        score = otel_aimon.monitor_jax(fresh(), model="ranker", batch_argnum=1)
        found = score(WEIGHTS, ROWS)
        assert found["scores"].is_ready()
        first, second = (telemetry.spans(), score(WEIGHTS, ROWS))[0], telemetry.spans()[1]
        [first] = first
        waited = first["attributes"].pop("aimon.compile.duration")
        assert first == second == span("call", "ranker", batch=5)
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 2
        assert duration.attributes == {
            "aimon.framework": "jax",
            "aimon.operation": "call",
            "aimon.model.name": "ranker",
        }
        assert waited < duration.total
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (2, 10)
        [compiled] = metrics["aimon.compile.duration"]
        assert compiled.attributes == {"aimon.framework": "jax", "aimon.model.name": "ranker"}
        assert (compiled.count, compiled.total) == (1, waited)

    def test_names(self, telemetry: Telemetry) -> None:
        otel_aimon.monitor_jax(fresh())(WEIGHTS, rows=ROWS)
        otel_aimon.monitor_jax(fresh(), operation="rank", batch_argnum=7)(WEIGHTS, ROWS)
        assert spans(telemetry) == [span("call", "score"), span("rank", "score")]

    def test_the_result_is_the_functions(self, telemetry: Telemetry) -> None:
        result = object()
        assert otel_aimon.monitor_jax(lambda: result)() is result
        assert otel_aimon.monitor_jax(lambda: None)() is None
        assert spans(telemetry) == [span("call", "<lambda>", device=None)] * 2

    def test_errors(self, telemetry: Telemetry) -> None:
        score = otel_aimon.monitor_jax(fresh(), batch_argnum=1)
        with pytest.raises(TypeError):
            score(WEIGHTS, jnp.ones((5, 7)))
        assert spans(telemetry) == [span("call", "score", batch=5, device=None, error="TypeError")]
        assert telemetry.counts() == {("jax", "score", "call", "TypeError"): 1}

    def test_a_computation_that_fails_tells_whoever_reads_it(self, telemetry: Telemetry) -> None:
        def check(rows: Any) -> Any:
            raise LookupError("the secret number")

        @jax.jit
        def failing(rows: Any) -> Any:
            return jax.pure_callback(check, jax.ShapeDtypeStruct(rows.shape, rows.dtype), rows)

        def read(function: Any) -> str:
            with pytest.raises(Exception, match="the secret number") as raised:
                jax.block_until_ready(function(ROWS))
            return type(raised.value).__name__

        expected = read(failing)
        assert read(otel_aimon.monitor_jax(failing, batch_argnum=0)) == expected
        [found] = spans(telemetry)
        error = found["attributes"]["error.type"]
        assert error.rpartition(".")[2] == expected
        assert found == span("call", "failing", batch=5, device=None, error=error)

    def test_one_that_is_interrupted_is_cancelled(self, telemetry: Telemetry) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            otel_aimon.monitor_jax(interrupted)()
        assert spans(telemetry) == [span("call", "interrupted", device=None, error="cancelled")]

    def test_one_inside_another_is_one_request(self, telemetry: Telemetry) -> None:
        inner = otel_aimon.monitor_jax(fresh(), model="inner")
        outer = otel_aimon.monitor_jax(lambda rows: inner(WEIGHTS, rows)["scores"].sum(), model="outer")
        outer(ROWS)
        with otel_aimon.inference("rank", model="shop"):
            inner(WEIGHTS, ROWS)
        assert spans(telemetry)[0] == span("call", "outer")
        assert spans(telemetry)[2] == span("call", "inner", parent="rank shop")
        assert telemetry.counts() == {("jax", "outer", "call"): 1, ("manual", "shop", "rank"): 1}

    def test_requests_of_several_threads(self, telemetry: Telemetry) -> None:
        score = otel_aimon.monitor_jax(fresh())
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: score(WEIGHTS, ROWS), range(20)))
        assert telemetry.counts() == {("jax", "score", "call"): 20}

    def test_flax(self, telemetry: Telemetry) -> None:
        flax = pytest.importorskip("flax")
        dense = flax.linen.Dense(4)
        params = dense.init(jax.random.key(0), ROWS)
        apply = otel_aimon.monitor_jax(jax.jit(dense.apply), model="linen", batch_argnum=1)
        apply(params, ROWS)
        from flax import nnx

        model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
        otel_aimon.monitor_jax(nnx.jit(lambda model, rows: model(rows)), model="nnx", batch_argnum=1)(
            model, ROWS
        )
        otel_aimon.monitor_jax(model, model="eager", batch_argnum=0)(ROWS)
        assert spans(telemetry) == [span("call", name, batch=5) for name in ("linen", "nnx", "eager")]


class TestSilence:
    def test_what_is_traced_or_differentiated(self, telemetry: Telemetry) -> None:
        score = otel_aimon.monitor_jax(fresh())
        jax.jit(score)(WEIGHTS, ROWS)
        jax.vmap(score, (None, 0))(WEIGHTS, ROWS)
        jax.grad(lambda weights: score(weights, ROWS)["scores"].sum())(WEIGHTS)
        jax.make_jaxpr(score)(WEIGHTS, ROWS)
        score.lower(WEIGHTS, ROWS)
        assert score.eval_shape(WEIGHTS, ROWS)["scores"].shape == (5, 4)
        assert telemetry.spans() == []

    def test_without_instrumentation_nothing_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        score = otel_aimon.monitor_jax(fresh())
        with monkeypatch.context() as patched:
            patched.delattr(jax, "block_until_ready")
            score(WEIGHTS, ROWS)
            with Telemetry(frameworks=("sklearn",)) as telemetry:
                score(WEIGHTS, ROWS)
        assert telemetry.spans() == []


class TestCompilations:
    def test_of_no_request(self, telemetry: Telemetry) -> None:
        telemetry.metrics()
        jitted = fresh()
        jitted(WEIGHTS, ROWS), jitted(WEIGHTS, ROWS)
        [compiled] = telemetry.metrics()["aimon.compile.duration"]
        assert (compiled.attributes, compiled.count) == ({"aimon.framework": "jax"}, 1)
        assert telemetry.spans() == []

    def test_in_a_request_of_another_kind(self, telemetry: Telemetry) -> None:
        with otel_aimon.inference("rank", model="shop"):
            fresh()(WEIGHTS, ROWS)
            fresh()(WEIGHTS, ROWS)
        [request] = telemetry.spans()
        [compiled] = telemetry.metrics()["aimon.compile.duration"]
        assert compiled.attributes == {"aimon.framework": "jax", "aimon.model.name": "shop"}
        assert compiled.count == 2
        assert request["attributes"]["aimon.compile.duration"] == pytest.approx(compiled.total)


class TestUnchanged:
    def test_names_and_signature(self) -> None:
        jitted = fresh()
        wrapped = otel_aimon.monitor_jax(jitted)
        assert (wrapped.__name__, wrapped.__wrapped__) == ("score", jitted)
        assert inspect.signature(wrapped) == inspect.signature(jitted)

    def test_the_listener_is_taken_away(self) -> None:
        before = monitoring.get_event_duration_listeners()
        with Telemetry(frameworks=("jax",)):
            assert len(monitoring.get_event_duration_listeners()) == len(before) + 1
        assert monitoring.get_event_duration_listeners() == before
