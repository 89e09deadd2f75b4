"""``__all__`` is the contract: a name goes in or out of it on purpose."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import metadata

import otel_aimon


def test_the_names() -> None:
    assert sorted(otel_aimon.__all__) == [
        "AlertEvent",
        "LimitExceededError",
        "ModelHints",
        "Settings",
        "__version__",
        "force_flush",
        "hints",
        "inference",
        "instrument",
        "instrument_module",
        "limiter",
        "monitor",
        "monitor_jax",
        "on_alert",
        "uninstrument",
    ]
    for name in otel_aimon.__all__:
        assert hasattr(otel_aimon, name)


def test_each_is_documented() -> None:
    for name in set(otel_aimon.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(otel_aimon, name)), name


def test_the_parameters() -> None:
    signatures = {
        name: list(inspect.signature(getattr(otel_aimon, name)).parameters)
        for name in (
            "force_flush",
            "inference",
            "instrument",
            "instrument_module",
            "monitor",
            "monitor_jax",
            "on_alert",
            "uninstrument",
        )
    }
    assert signatures == {
        "force_flush": [],
        "inference": ["operation", "model", "framework", "provider", "batch_size", "device", "client"],
        "instrument": ["tracer_provider", "meter_provider", "logger_provider", "settings"],
        "instrument_module": ["module", "name"],
        "monitor": ["function", "operation", "model", "framework", "provider", "token_per_item"],
        "monitor_jax": ["function", "model", "operation", "batch_argnum"],
        "on_alert": ["callback"],
        "uninstrument": [],
    }
    methods = [name for name in vars(otel_aimon.inference) if not name.startswith("_")]
    assert sorted(methods) == [
        "batch",
        "cancel",
        "end",
        "error",
        "finish_reason",
        "first_token",
        "start",
        "token",
        "usage",
    ]


def test_the_version_is_the_distributions() -> None:
    assert otel_aimon.__version__ == metadata.version("otel-aimon")


def test_importing_it_imports_no_framework_and_starts_nothing() -> None:
    script = (
        "import sys, threading, otel_aimon\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'onnxruntime', 'numpy', 'sentence_transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert not [m for m in sys.modules if m.startswith('otel_aimon.instrumentation.')\n"
        "            and m.rpartition('.')[2] not in {'hooks', 'loader', 'registry'}]\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
