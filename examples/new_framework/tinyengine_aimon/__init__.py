"""otel-aimon for TinyEngine. OpenTelemetry loads the class through the entry point in pyproject.toml.

Nothing here imports TinyEngine: the hooks are loaded when the application has imported it.
"""

from __future__ import annotations

from otel_aimon.extension import Framework, Instrumentor

__all__ = ["TinyengineInstrumentor"]


class TinyengineInstrumentor(Instrumentor):
    """TinyEngine."""

    row = Framework(
        name="tinyengine",
        title="TinyEngine",
        distribution="tinyengine",
        oldest="1.0",
        # The modules to wait for, and the function below that hooks each of them.
        hooks=(("tinyengine.model", "hook_models"),),
        records="each `predict`, each iteration of `generate`; silent while a tuner works",
        layer="generate, model",
        module="tinyengine_aimon.hooks",
    )
