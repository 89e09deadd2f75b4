"""SGLang's schedulers: what they tell the front end of themselves.

A scheduler writes its load into memory that it shares with the front end: requests in the batch and before it,
and the use of the key-value cache. That is read when metrics are collected, and no oftener. What is counted,
such as tokens found in the prefix cache, comes with the last output of each sequence.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from otel_aimon.core.guard import guarded
from otel_aimon.core.naming import clean_model_name
from otel_aimon.instrumentation.sglang_outputs import at

if TYPE_CHECKING:
    from otel_aimon.core.engines import Engine
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.sglang_outputs import Output

logger = logging.getLogger("otel_aimon")

_FRESH_SECONDS = 0.1
"""All metrics of one collection read the shared memory once."""

_MOST_ENGINES = 1024


class Engines:
    """The schedulers behind one tokenizer manager, each a data-parallel rank.

    Args:
        recorder: Knows all engines of the process.
        framework: Value of ``aimon.framework``.
        model: SGLang's name for the model.
        manager: The ``TokenizerManager``, for as long as which they are there.
    """

    def __init__(self, recorder: Recorder, framework: str, model: str | None, manager: Any) -> None:
        arguments = getattr(manager, "server_args", None)
        name = recorder.models.admit(clean_model_name(model) if model else "unknown")
        self._prefix_cache = not getattr(arguments, "disable_radix_cache", False)
        self._drafts = _drafts_per_step(arguments)
        self._load = _Load(manager, self)
        ranks = max(self._load.ranks, 1)
        self._engines: dict[int, Engine] = {
            rank: recorder.engines.open(framework, name, rank, manager, poll=self._load.poll)
            for rank in range(min(ranks, _MOST_ENGINES))
        }
        self._only = self._engines[0] if ranks == 1 else None

    def count(self, outputs: Any, place: int, output: Output) -> None:
        """A sequence has ended, whoever waits for it or not.

        Args:
            outputs: Of all sequences in a step.
            place: Of the one that has ended.
            output: What is read of it already.
        """
        engine = self._only or self._engines.get(at(outputs, "dp_ranks", place) or 0)
        if engine is None:
            return
        if self._prefix_cache and output.input_tokens is not None and output.cached_tokens is not None:
            engine.add("prefix_queries", output.input_tokens)
            engine.add("prefix_hits", output.cached_tokens)
        retractions = at(outputs, "retraction_counts", place)
        if type(retractions) is int:
            engine.add("preemptions", retractions)
        if self._drafts:
            steps = at(outputs, "spec_verify_ct", place)
            accepted = at(outputs, "spec_num_correct_drafts", place)
            if type(steps) is int and type(accepted) is int:
                engine.add("draft_tokens", steps * self._drafts)
                engine.add("accepted_tokens", accepted)

    def show(self, snapshots: list[Any]) -> None:
        """Take over the loads of all ranks."""
        for snapshot in snapshots:
            engine = self._engines.get(snapshot.dp_rank)
            if engine is not None and snapshot.timestamp:
                engine.running = snapshot.num_running_reqs
                engine.waiting = snapshot.num_waiting_reqs
                engine.kv_cache = snapshot.token_usage

    def close(self) -> None:
        """The schedulers have ended."""
        self._load.close()
        for engine in self._engines.values():
            engine.running = engine.waiting = engine.kv_cache = None


class _Load:
    """Reads the memory that the schedulers share with the front end.

    Args:
        manager: The ``TokenizerManager``.
        engines: What to tell.
    """

    def __init__(self, manager: Any, engines: Engines) -> None:
        self._engines = engines
        self._read_at = 0.0
        self._reader = guarded(_reader_like, getattr(manager, "load_snapshot_reader", None))
        self.ranks = getattr(self._reader, "dp_size", 0)
        if self._reader is None:
            logger.warning(
                "otel-aimon: requests in the batch, those that wait and the use of the key-value cache stay "
                "unknown: this SGLang does not share them with its front end through memory."
            )

    def poll(self) -> None:
        """Take over the loads, unless that was done just now."""
        now = monotonic()
        if self._reader is None or now - self._read_at < _FRESH_SECONDS:
            return
        self._read_at = now
        guarded(self._read)

    def _read(self) -> None:
        reader = self._reader
        if reader is not None:
            self._engines.show(reader.read_all())

    def close(self) -> None:
        """Nothing changes any more."""
        self._reader = None


def _reader_like(reader: Any) -> Any:
    """A reader of our own: the manager's is used on its thread.

    None for a reader that gets the loads over the network: they would be as old as the last one who asked.
    """
    if type(reader).__name__ != "ShmLoadSnapshotReader":
        return None
    return type(reader)(reader.path, reader.dp_size)


def _drafts_per_step(arguments: Any) -> int:
    """Tokens that speculative decoding proposes in a step; 0 without it, or where that is not known."""
    proposed = getattr(arguments, "speculative_num_draft_tokens", None)
    if not getattr(arguments, "speculative_algorithm", None) or type(proposed) is not int:
        return 0
    # One of them is the model's own.
    return max(proposed - 1, 0)
