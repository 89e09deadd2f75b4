"""Processes of a vLLM engine beside its front end: its core and its workers, which stay silent."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_aimon.core.call import quiet

if TYPE_CHECKING:
    from otel_aimon.instrumentation.hooks import Hooks


def hook_core(hooks: Hooks, module: Any) -> None:
    """Keep the engine's core silent: a step there works on many requests at once.

    In the front end's process it is silenced step by step; a process of its own has no requests.
    """
    for method in ("__init__", "step", "step_with_batch_queue"):
        hooks.wrap(module.EngineCore, method, lambda original: quiet(original, hooks.recorder))
    hooks.wrap(module.EngineCoreProc, "run_engine_core", functools.partial(_without_requests, hooks))


def hook_workers(hooks: Hooks, module: Any) -> None:
    """Keep the workers silent, which are processes of their own."""
    hooks.wrap(module.WorkerProc, "worker_main", functools.partial(_without_requests, hooks))


def _without_requests(hooks: Hooks, original: Any) -> Any:
    @functools.wraps(original)
    def main(*args: Any, **kwargs: Any) -> Any:
        hooks.recorder.close()
        return original(*args, **kwargs)

    return main
