"""Installs a framework's hooks when the application imports it, never before."""

from __future__ import annotations

import importlib
import logging
import threading
import weakref
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import wrapt

from otel_aimon.core.guard import swallow
from otel_aimon.instrumentation.hooks import Hooks
from otel_aimon.instrumentation.registry import BY_NAME

if TYPE_CHECKING:
    from otel_aimon.instrumentation.registry import Framework
    from otel_aimon.runtime import Runtime

logger = logging.getLogger("otel_aimon")

_lock = threading.RLock()
_armed: dict[str, Hooks] = {}


def arm(name: str, runtime: Runtime) -> None:
    """Hook a framework now if it is imported, else as soon as it is.

    Args:
        name: Name in the registry.
        runtime: Takes its inferences.
    """
    with _lock:
        if name in _armed:
            return
        chosen = runtime.settings.frameworks
        if chosen and name not in chosen:
            return
        framework = BY_NAME[name]
        hooks = _armed[name] = Hooks(name, runtime.recorder, runtime.settings)
        for module, function in framework.hooks:
            wrapt.register_post_import_hook(_installer(framework, hooks, function), module)


def _installer(framework: Framework, hooks: Hooks, function: str) -> Any:
    # Import hooks cannot be taken back; one that belongs to an earlier arming does nothing.
    armed_then = weakref.ref(hooks)

    def install(module: Any) -> None:
        hooks = armed_then()
        if hooks is None or _armed.get(framework.name) is not hooks:
            return
        try:
            ours = framework.module or f"otel_aimon.instrumentation.{framework.name}"
            getattr(importlib.import_module(ours), function)(hooks, module)
        except Exception as error:
            swallow(error, f"the instrumentation of {framework.title}")

    return install


def disarm(name: str) -> None:
    """Put back every original of a framework."""
    with _lock:
        hooks = _armed.pop(name, None)
        if hooks is not None:
            hooks.restore()


def hooks_of(name: str) -> Hooks | None:
    """The hooks of a framework that is armed."""
    with _lock:
        return _armed.get(name)


def is_armed(name: str) -> bool:
    """Whether a framework is armed; asked without the lock, as in the middle of an import."""
    return name in _armed


def armed() -> list[str]:
    """The frameworks that are hooked, or will be once they are imported."""
    with _lock:
        return sorted(_armed)


def warn_unknown(names: tuple[str, ...]) -> None:
    """Warn of names that are no framework of ours, nor of another distribution."""
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        # Another distribution may be loaded later; its entry point is known already.
        others = {point.name for point in entry_points(group="opentelemetry_instrumentor")}
        unknown = [name for name in unknown if f"aimon_{name}" not in others]
    if unknown:
        logger.warning(
            "otel-aimon: unknown frameworks %s are ignored; accepted are %s.",
            ", ".join(unknown),
            ", ".join(sorted(BY_NAME)),
        )
