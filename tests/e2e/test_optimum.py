"""Optimum in a process of its own: whole telemetry, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.served import Served, span

pytest.importorskip("optimum.onnxruntime")

CLASSIFY = "text-classification"


def _refusal(served: Served) -> str:
    [name] = {
        error.rpartition(".")[2]
        for each in served.spans
        if (error := each[4].get("error.type", "")).startswith("onnxruntime.")
    }
    assert name in {"Fail", "RuntimeException"}
    return name


def test_optimum(tmp_path: Path) -> None:
    served = Served("models", tmp_path, "optimum_app.py")

    def generated(model: str = "llama", **known: Any) -> Any:
        return span("transformers", "text_completion", model, **known)

    def classified(framework: str = "optimum", **known: Any) -> Any:
        return span(framework, CLASSIFY, "classifier", **known)

    full: dict[str, Any] = {"batch": 1, "output": 4, "ttft": True, "reasons": ("length",)}
    [prompt] = {
        each[4]["gen_ai.usage.input_tokens"]
        for each in served.spans
        if "gen_ai.usage.input_tokens" in each[4]
    }
    assert prompt > 0
    # Versions of ONNX Runtime call it differently.
    refused = f"onnxruntime.capi.onnxruntime_pybind11_state.{_refusal(served)}"
    assert "otel-aimon" not in served.stderr
    assert served.spans == [
        generated(input=prompt, **full),
        generated(batch=1, input=prompt, error="cancelled"),
        generated(error="ValueError"),
        generated("t5", input=prompt, **full),
        classified(batch=2),
        classified(batch=1, error=refused),
        classified("transformers", batch=1),
        classified(batch=1, parent=f"{CLASSIFY} classifier"),
    ]
    series = ("transformers", "llama", "text_completion")
    assert served.values("aimon.inference.duration") == {
        series: 1,
        (*series, "cancelled"): 1,
        (*series, "ValueError"): 1,
        ("transformers", "t5", "text_completion"): 1,
        ("optimum", "classifier", CLASSIFY): 1,
        ("optimum", "classifier", CLASSIFY, refused): 1,
        ("transformers", "classifier", CLASSIFY): 1,
    }
    assert served.values("aimon.inference.stage.duration") == {("optimum", "classifier", CLASSIFY): 1}
    assert served.values("aimon.inference.tokens", "value") == {
        (*series, "input"): 2 * prompt,
        (*series, "output"): 4,
        ("transformers", "t5", "text_completion", "input"): prompt,
        ("transformers", "t5", "text_completion", "output"): 4,
    }
