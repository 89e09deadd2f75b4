"""TensorRT-LLM's interface in a process of its own: whole telemetry, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.served import Served, span


def test_texts(tmp_path: Path) -> None:
    served = Served("texts", tmp_path, "tensorrt_llm_app.py")

    def text(**known: Any) -> Any:
        return span("tensorrt_llm", "text_completion", "tiny", device="cuda", **known)

    assert "otel-aimon" not in served.stderr
    assert served.spans == [
        text(batch=2, input=3, output=8, reasons=("length", "length")),
        text(batch=1, input=3, output=4, reasons=("length",), ttft=True),
        text(batch=1, output=1, ttft=True, error="cancelled"),
        text(batch=1, error="ValueError"),
    ]
    served.assert_counted()
