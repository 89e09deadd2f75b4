"""TensorRT's real Python bindings in a process of their own: whole telemetry, good and bad."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.e2e.served import Served, span

if importlib.util.find_spec("tensorrt_bindings") is None or shutil.which("gcc") is None:
    pytest.skip("TensorRT's bindings are not installed, or no C compiler", allow_module_level=True)


def test_executions(tmp_path: Path) -> None:
    served = Served("executions", tmp_path, "tensorrt_app.py")

    assert "otel-aimon" not in served.stderr
    assert served.spans == [
        span("tensorrt", "execute", "tiny", batch=4, device="cuda"),
        span("tensorrt", "execute", "tiny", batch=4, device="cuda", error="_OTHER"),
    ]
    served.assert_counted()
