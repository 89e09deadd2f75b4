"""A framework of a few lines, really imported, with a row in the registry and a hook module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_aimon.instrumentation
from otel_aimon import entrypoints
from otel_aimon.instrumentation import loader
from otel_aimon.instrumentation.registry import Framework

FRAMEWORK = """
class Model:
    name = "tiny"

    def predict(self, inputs):
        return inputs

    @classmethod
    def loaded(cls, inputs):
        return inputs
"""
HOOKS = '''
"""Hooks of the throw-away framework."""

from otel_aimon.core.call import observed
from otel_aimon.core.layers import Layer

def hook_models(hooks, module):
    recorder = hooks.recorder

    def begin(args, _kwargs):
        return recorder.start(recorder.series("{name}", "predict", module.Model.name), Layer.MODEL)

    for name in ("predict", "loaded"):
        hooks.wrap(module.Model, name, lambda original: observed(original, begin), ("inputs",))

def hook_broken(hooks, module):
    raise RuntimeError("broken hook")
'''


class Throwaway:
    """Two frameworks: ``tinyfw``, and ``brokenfw`` whose second hook raises."""

    NAMES = ("tinyfw", "brokenfw")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "hooks").mkdir()
        for name in self.NAMES:
            (folder / f"{name}.py").write_text(FRAMEWORK)
            (folder / "hooks" / f"{name}.py").write_text(HOOKS.replace("{name}", name))

    @staticmethod
    def row(name: str) -> Framework:
        hooks = ((name, "hook_models"),)
        if name == "brokenfw":
            hooks = ((name, "hook_broken"), *hooks)
        return Framework(name, name, name, "0", hooks, "", "model")


@pytest.fixture
def throwaway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Throwaway]:
    made = Throwaway(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        otel_aimon.instrumentation,
        "__path__",
        [*otel_aimon.instrumentation.__path__, str(tmp_path / "hooks")],
    )
    monkeypatch.setattr(loader, "BY_NAME", {name: made.row(name) for name in made.NAMES})
    instrumentors: dict[str, Any] = {
        name: type(
            name, (entrypoints.FrameworkInstrumentor,), {"entry_point": f"aimon_{name}", "framework": name}
        )
        for name in made.NAMES
    }
    monkeypatch.setattr("otel_aimon.api.FRAMEWORK_INSTRUMENTORS", instrumentors)
    yield made
    for name in made.NAMES:
        sys.modules.pop(name, None)
        sys.modules.pop(f"otel_aimon.instrumentation.{name}", None)
        vars(otel_aimon.instrumentation).pop(name, None)
