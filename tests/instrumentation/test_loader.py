"""Hooks are installed when the application imports a framework, never before."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

import otel_aimon
from otel_aimon import runtime
from otel_aimon.core import guard
from otel_aimon.instrumentation import loader
from otel_aimon.instrumentation.registry import FRAMEWORKS
from tests.instrumentation.conftest import Throwaway
from tests.support.scripts import run
from tests.support.telemetry import Telemetry

TINY = ("tinyfw", "tiny", "predict")
ONLY = {"frameworks": ["tinyfw"]}


def imported(name: str = "tinyfw") -> Any:
    return importlib.import_module(name)


def originals(module: Any) -> dict[str, Any]:
    return {name: vars(module.Model)[name] for name in ("predict", "loaded")}


def exactly(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] is other[name] for name in one)


def use(module: Any) -> None:
    data = object()
    assert module.Model().predict(data) is data


def test_instrumented_before_the_import(throwaway: Throwaway) -> None:
    with Telemetry(**ONLY) as telemetry:
        assert loader.armed() == ["tinyfw"]
        assert "tinyfw" not in sys.modules
        assert "otel_aimon.instrumentation.tinyfw" not in sys.modules
        use(imported())
        assert telemetry.counts() == {TINY: 1}


def test_instrumented_after_the_import(throwaway: Throwaway) -> None:
    module = imported()
    model = module.Model()
    with Telemetry(**ONLY) as telemetry:
        model.predict(1)
        assert telemetry.counts() == {TINY: 1}


def test_twice_is_once(throwaway: Throwaway) -> None:
    module = imported()
    with Telemetry(**ONLY) as telemetry:
        first = originals(module)
        otel_aimon.instrument()
        loader.arm("tinyfw", runtime.current())  # type: ignore[arg-type]
        assert exactly(originals(module), first)
        use(module)
        assert telemetry.counts() == {TINY: 1}


def test_uninstrument_restores_exactly_and_it_can_be_done_again(throwaway: Throwaway) -> None:
    module = imported()
    before = originals(module)
    for _ in range(3):
        with Telemetry(**ONLY) as telemetry:
            assert not exactly(originals(module), before)
            use(module)
            module.Model.loaded(1)
            assert telemetry.counts() == {TINY: 2}
        assert exactly(originals(module), before)
        assert loader.armed() == []


def test_an_import_after_uninstrument_installs_nothing(throwaway: Throwaway) -> None:
    for _ in range(2):
        with Telemetry(**ONLY):
            pass
    module = imported()
    assert "__wrapped__" not in vars(module.Model.predict)
    with Telemetry(**ONLY) as telemetry:
        use(module)
        assert telemetry.counts() == {TINY: 1}


def test_an_arming_that_is_over_holds_nothing(throwaway: Throwaway) -> None:
    with Telemetry(**ONLY):
        watch = weakref.ref(runtime.current())  # type: ignore[arg-type]
        hooks = weakref.ref(loader._armed["tinyfw"])
    gc.collect()
    assert hooks() is None
    assert watch() is None


def test_a_wrapper_that_the_user_kept_passes_through(throwaway: Throwaway) -> None:
    module = imported()
    with Telemetry(**ONLY) as telemetry:
        kept = module.Model().predict
    data = object()
    assert kept(data) is data
    assert telemetry.exporter.get_finished_spans() == ()


def test_a_hook_that_fails_leaves_the_others_alone(
    throwaway: Throwaway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "RERAISE", False)
    monkeypatch.setattr(guard, "_swallowed", guard._Swallowed())
    with Telemetry() as telemetry:
        use(imported("brokenfw"))
        use(imported("tinyfw"))
        assert telemetry.counts() == {TINY: 1, ("brokenfw", "tiny", "predict"): 1}
        (point,) = telemetry.metrics()["aimon.selfmon.errors"]
        assert point.value == 1
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "the instrumentation of brokenfw (RuntimeError)" in record.getMessage()


def test_only_the_frameworks_that_are_wanted(throwaway: Throwaway) -> None:
    with Telemetry(frameworks="brokenfw"):
        assert loader.armed() == ["brokenfw"]
    with Telemetry():
        assert loader.armed() == ["brokenfw", "tinyfw"]


def test_unknown_names_are_one_warning(throwaway: Throwaway, caplog: pytest.LogCaptureFixture) -> None:
    with Telemetry(frameworks=["tinyfw", "tinyfv", "what"]):
        assert loader.armed() == ["tinyfw"]
    (record,) = caplog.records
    assert record.getMessage() == (
        "otel-aimon: unknown frameworks tinyfv, what are ignored; accepted are brokenfw, tinyfw."
    )


def test_nothing_imports_a_framework(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        """
        import json, sys
        import otel_aimon
        otel_aimon.instrument()
        from otel_aimon import runtime
        from otel_aimon.instrumentation import loader
        assert runtime.current() is not None
        print(json.dumps({"armed": loader.armed(), "modules": sorted(sys.modules)}))
        """,
    )
    names = {framework.name for framework in FRAMEWORKS}
    assert set(found["armed"]) == names
    assert not (names | {"numpy"}) & set(found["modules"])
    assert not {f"otel_aimon.instrumentation.{name}" for name in names} & set(found["modules"])
