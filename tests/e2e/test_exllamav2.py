"""ExLlamaV2's generators in a process of their own: whole telemetry, good and bad."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.served import Served, span

if importlib.util.find_spec("exllamav2") is None:
    pytest.skip("ExLlamaV2 is not installed", allow_module_level=True)


def test_texts(tmp_path: Path) -> None:
    served = Served("texts", tmp_path, "exllamav2_app.py")

    def text(**known: Any) -> Any:
        return span("exllamav2", "text_completion", "tiny-exl2", device="cuda", **known)

    assert "otel-aimon" not in served.stderr
    reason = "max_new_tokens"
    assert served.spans == [
        text(batch=2, input=5, output=8, ttft=True, reasons=(reason, reason)),
        text(batch=1, input=3, output=3, ttft=True, reasons=(reason,), queue=True),
        text(batch=1, input=3, output=1, ttft=True, error="cancelled"),
        text(batch=1, input=3, error="AssertionError"),
    ]
    served.assert_counted()
