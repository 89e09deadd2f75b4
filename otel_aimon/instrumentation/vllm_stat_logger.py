"""The stat logger: an engine's scheduler and cache, from the statistics that vLLM keeps anyway.

vLLM finds the class through the entry point group ``vllm.stat_logger_plugins``, in every process that
makes an ``AsyncLLM``, instrumented or not; without instrumentation it does nothing. vLLM's offline
engines do not look at that group: the hooks add it to them.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from vllm.v1.metrics.loggers import AggregateStatLoggerBase

from otel_aimon.core.guard import swallow
from otel_aimon.core.naming import clean_model_name
from otel_aimon.instrumentation.vllm_requests import FRAMEWORK, model_name

if TYPE_CHECKING:
    from otel_aimon.core.engines import Engine
    from otel_aimon.core.recorder import Recorder


class Sink:
    """Where the stat loggers of this process write; None while it is not instrumented."""

    recorder: Recorder | None = None


class StatLogger(AggregateStatLoggerBase):  # type: ignore[misc]
    """Writes each engine's numbers into the slots of an :class:`Engine`.

    Args:
        vllm_config: The engines' configuration.
        engine_indexes: vLLM's numbers for the engines behind one front end.

    Attributes:
        shared: The engines have several front ends, of which each step tells one.
    """

    def __init__(self, vllm_config: Any, engine_indexes: list[int]) -> None:
        self._model = model_name(vllm_config)
        self._prefix_cache = bool(getattr(vllm_config.cache_config, "enable_prefix_caching", True))
        self.engine_indexes = engine_indexes
        self.shared = False
        self._recorder: Recorder | None = None
        self._engines: dict[int, Engine] = {}

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,  # noqa: ARG002 - vLLM passes it by name
        engine_idx: int = 0,
        **_further: Any,
    ) -> None:
        """Take over the numbers of one step."""
        recorder = Sink.recorder
        if recorder is None:
            return
        try:
            if recorder is not self._recorder:
                self._recorder, self._engines = recorder, {}
            engine = self._engines.get(engine_idx) or self._open(recorder, engine_idx)
            if scheduler_stats is not None:
                self._read_scheduler(engine, scheduler_stats)
                if self.shared:
                    engine.told_ns = monotonic_ns()
            if iteration_stats is not None:
                engine.add("preemptions", iteration_stats.num_preempted_reqs)
        except Exception as error:
            swallow(error, "the stat logger of vLLM")

    def _open(self, recorder: Recorder, number: int) -> Engine:
        model = recorder.models.admit(clean_model_name(self._model) if self._model else "unknown")
        engine = self._engines[number] = recorder.engines.open(FRAMEWORK, model, number, self)
        return engine

    def _read_scheduler(self, engine: Engine, stats: Any) -> None:
        engine.running = stats.num_running_reqs
        engine.waiting = stats.num_waiting_reqs + getattr(stats, "num_skipped_waiting_reqs", 0)
        engine.kv_cache = stats.kv_cache_usage
        prefix = stats.prefix_cache_stats
        if prefix is not None and self._prefix_cache:
            engine.add("prefix_queries", prefix.queries)
            engine.add("prefix_hits", prefix.hits)
        speculation = stats.spec_decoding_stats
        if speculation is not None:
            engine.add("draft_tokens", speculation.num_draft_tokens)
            engine.add("accepted_tokens", speculation.num_accepted_tokens)

    def log_engine_initialized(self) -> None:
        """Nothing: a first step says all."""
