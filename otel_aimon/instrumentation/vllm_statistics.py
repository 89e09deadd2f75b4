"""Where vLLM keeps statistics, ours among them.

vLLM gives its front end's stat loggers to a manager, ``StatLoggerManager``; ours joins them wherever
there is one. Offline engines keep no statistics unless they are asked to: where the user leaves that
open, they are kept for our stat logger, as vLLM itself does for a plug-in's in an ``AsyncLLM``.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, create_key, detach, get_current, set_value

from otel_aimon.core.guard import guarded

if TYPE_CHECKING:
    from otel_aimon.instrumentation.hooks import Hooks

_UNASKED = create_key("otel-aimon-vllm-unasked")
"""The context inside ``LLM(...)`` bears it where the user did not say whether to keep statistics."""


def hook_stat_loggers(hooks: Hooks, module: Any) -> None:
    """Add the stat logger wherever vLLM keeps statistics; through the plug-in or without it."""
    from otel_aimon.instrumentation.vllm_stat_logger import Sink

    Sink.recorder = hooks.recorder

    def disconnect() -> None:
        if Sink.recorder is hooks.recorder:
            Sink.recorder = None

    def observe(original: Any) -> Any:
        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is that method
            original(self, *args, **kwargs)
            guarded(_join, self, original, args, kwargs)

        return __init__

    hooks.wrap(module.StatLoggerManager, "__init__", observe, ("vllm_config",))
    hooks.on_restore(disconnect)


def _join(manager: Any, init: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    from otel_aimon.instrumentation.vllm_stat_logger import StatLogger

    given = inspect.signature(init).bind(manager, *args, **kwargs).arguments
    ours = next((each for each in manager.stat_loggers if isinstance(each, StatLogger)), None)
    if ours is None:
        ours = StatLogger(given["vllm_config"], manager.engine_indexes)
        manager.stat_loggers.append(ours)
    ours.shared = given.get("client_count", 1) > 1


# --- offline engines ----------------------------------------------------------------------------


class _OnlyOurs:
    """Stands in for vLLM's ``StatLoggerManager`` in an offline engine that has none.

    vLLM's own would bring its log lines and its Prometheus metrics, which nobody asked for.
    """

    def __init__(self, logger: Any) -> None:
        self.stat_loggers = [logger]
        self.engine_indexes = logger.engine_indexes

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int | None = None,
    ) -> None:
        for logger in self.stat_loggers:
            logger.record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx or 0)

    def _nothing(self, *_args: Any, **_kwargs: Any) -> None:
        """Nothing to do for us."""

    log = log_engine_initialized = record_sleep_state = record_admission_rejection = _nothing


def unasked(original: Any) -> Any:
    """Wrap ``LLM.__init__``: offline engines keep no statistics unless they are asked to."""

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is that method
        token = attach(set_value(_UNASKED, "disable_log_stats" not in kwargs))
        try:
            original(self, *args, **kwargs)
        finally:
            detach(token)

    return __init__


def with_statistics(original: Any) -> Any:
    """Wrap ``EngineCoreClient.make_client``: let the core of an unasked engine keep statistics."""

    @functools.wraps(original)
    def make_client(*args: Any, **kwargs: Any) -> Any:
        if get_current().get(_UNASKED) and kwargs.get("log_stats") is False:
            kwargs["log_stats"] = True
        return original(*args, **kwargs)

    return make_client


def keeps_statistics(original: Any) -> Any:
    """Wrap ``LLMEngine.__init__``: let the front end of an unasked engine keep them too."""

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is that method
        original(self, *args, **kwargs)
        if get_current().get(_UNASKED):
            guarded(_switch_on, self)

    return __init__


def _switch_on(engine: Any) -> None:
    if engine.log_stats or engine.logger_manager is not None:
        return
    from otel_aimon.instrumentation.vllm_stat_logger import StatLogger

    engine.logger_manager = _OnlyOurs(StatLogger(engine.vllm_config, [0]))
    engine.output_processor.log_stats = True
    engine.output_processor.lora_states.log_stats = True
    engine.log_stats = True
