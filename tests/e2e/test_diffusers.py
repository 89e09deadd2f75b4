"""Diffusers in a process of its own: whole telemetry, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.served import Served, span

pytest.importorskip("diffusers")


def test_diffusers(tmp_path: Path) -> None:
    served = Served("stable_diffusion", tmp_path, "diffusion.py")

    def drawn(model: str = "tiny-sd", *, images: int | None = 1, steps: int = 3, **known: Any) -> Any:
        times = {"per_step": True if steps else None, "per_item": True if images else None}
        device = "cpu" if steps else None
        return span(
            "diffusers", "generate", model, batch=images, steps=steps, device=device, **times, **known
        )

    assert "otel-aimon" not in served.stderr
    assert served.spans == [
        drawn(images=4),
        drawn(),
        drawn(images=None, steps=0, error="ValueError"),
        drawn(steps=1, error="cancelled"),
        drawn(images=None, steps=1, error="cancelled"),
        drawn(images=None, steps=1, error="LookupError"),
        drawn("Sketch", steps=2),
    ]
    series = ("diffusers", "tiny-sd", "generate")
    assert served.values("aimon.inference.duration") == {
        series: 2,
        (*series, "ValueError"): 1,
        (*series, "LookupError"): 1,
        (*series, "cancelled"): 2,
        ("diffusers", "Sketch", "generate"): 1,
    }
    assert served.values("aimon.inference.batch.size", "total") == {
        series: 6,
        ("diffusers", "Sketch", "generate"): 1,
    }
    assert served.values("aimon.inference.stage.duration") == {}
    assert served.values("gen_ai.server.request.duration") == {}
