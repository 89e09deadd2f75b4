"""MLX LM's batches: a request per ``batch_generate``, or per prompt that a ``BatchGenerator`` is given."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.context import create_key, get_current, set_value

from otel_aimon.core.call import observed
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.batch_members import Alone, Part
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference

_BATCH = create_key("otel-aimon-mlx-lm-batch")
"""Under this key the context carries the call of ``batch_generate`` whose prompts are inserted."""

_Counts = list[tuple[int | None, int | None]]
"""Of each prompt: its tokens, and those among them that are in a cache."""


class _Sequence(Alone):
    """A prompt of a generator."""

    __slots__ = ()

    def token(self, reason: str | None) -> None:
        """Count a token, and end the request with the last one."""
        inference = self.inference
        inference.chunk()
        inference.output_tokens = (inference.output_tokens or 0) + 1
        if reason is not None:
            inference.finish_reasons = (reason,)
            inference.end()


class _Batch:
    """A call of ``batch_generate``."""

    __slots__ = ("inference", "reasons")

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self.reasons: list[str | None] = []

    def part(self) -> _Part:
        """The next of its prompts."""
        self.reasons.append(None)
        return _Part(self, len(self.reasons) - 1)


class _Part(Part):
    """A prompt of a batch."""

    __slots__ = ("_batch", "_place", "_tokens")

    def __init__(self, batch: _Batch, place: int) -> None:
        self._batch = batch
        self._place = place
        self._tokens = 0

    def token(self, reason: str | None) -> None:
        """Count a token."""
        inference = self._batch.inference
        inference.chunk()
        self._tokens += 1
        inference.output_tokens = (inference.output_tokens or 0) + 1
        inference.steps = max(inference.steps or 0, self._tokens)
        if reason is not None:
            self._batch.reasons[self._place] = reason


class Batches:
    """Follows the prompts of all generators; keeps none of these alive.

    Args:
        start: Starts a request of a model, with its tokenizer if that is known.
    """

    def __init__(self, start: Callable[..., Inference | None]) -> None:
        self._start = start
        self._running: Known[dict[int, _Sequence | _Part]] = Known(_abandon)

    def generation(self, original: Any) -> Any:
        """Wrap ``batch_generate``."""

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
            given = dict(zip(("model", "tokenizer", "prompts"), args, strict=False))
            given.update(kwargs)
            inference = self._start(given.get("model"), given.get("tokenizer"))
            if inference is not None and inference.context is not None:
                prompts = given.get("prompts")
                inference.batch_size = len(prompts) if type(prompts) is list else None
                inference.context = set_value(_BATCH, _Batch(inference), inference.context)
            return inference

        return observed(original, begin, _settle)

    def insertion(self, whole: bool, original: Any) -> Any:
        """Wrap the method that takes prompts.

        Args:
            whole: It takes each prompt whole, and not in segments.
            original: The method.
        """

        @functools.wraps(original)
        def insert(generator: Any, *args: Any, **kwargs: Any) -> Any:
            counts = guarded(_count, whole, args, kwargs)
            uids = original(generator, *args, **kwargs)
            guarded(self._inserted, generator, uids, counts)
            return uids

        return insert

    def _inserted(self, generator: Any, uids: Any, counts: _Counts | None) -> None:
        running = self._running.of(generator)
        if running is None:
            running = self._running.learn(generator, {})
        batch = get_current().get(_BATCH)
        for place, uid in enumerate(uids):
            prompt, cached = counts[place] if counts is not None else (None, None)
            if isinstance(batch, _Batch) and not batch.inference.end_ns:
                batch.inference.add_input_tokens(prompt)
                running[uid] = batch.part()
                continue
            inference = self._start(generator.model)
            if inference is not None:
                inference.batch_size = 1
                inference.input_tokens = prompt
                inference.cached_tokens = cached
                running[uid] = _Sequence(inference)

    def step(self, original: Any) -> Any:
        """Wrap the method that takes a step with all prompts, through which each public one goes."""

        @functools.wraps(original)
        def following(generator: Any, *args: Any, **kwargs: Any) -> Any:
            running = self._running.of(generator)
            if not running:
                return original(generator, *args, **kwargs)
            try:
                result = original(generator, *args, **kwargs)
            except BaseException as error:
                for each in running.values():
                    each.fail(error)
                running.clear()
                raise
            guarded(_read, running, result)
            return result

        return following

    def removal(self, original: Any) -> Any:
        """Wrap the method that takes prompts back."""

        @functools.wraps(original)
        def remove(generator: Any, uids: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(generator, uids, *args, **kwargs)
            running = self._running.of(generator)
            if running and isinstance(uids, (list, tuple, set)):
                for uid in uids:
                    each = running.pop(uid, None)
                    if each is not None:
                        each.cancel()
            return result

        return remove


def _count(whole: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Counts | None:
    """The tokens of the prompts, before a generator takes them apart."""
    prompts = args[0] if args else kwargs.get("prompts" if whole else "segments")
    if type(prompts) is not list:
        return None
    if whole:
        return [(_length(prompt), None) for prompt in prompts]
    before = args[3] if len(args) > 3 else kwargs.get("all_tokens")
    cached = [_length(each) for each in before] if type(before) is list else [None] * len(prompts)
    return [_counted(segments, known) for segments, known in zip(prompts, cached, strict=False)]


def _counted(segments: Any, cached: int | None) -> tuple[int | None, int | None]:
    lengths = [_length(segment) for segment in segments] if type(segments) is list else [None]
    rest = None if None in lengths else sum(lengths)  # type: ignore[arg-type]
    return (None if rest is None else rest + (cached or 0)), cached


def _length(ids: Any) -> int | None:
    return len(ids) if type(ids) is list else None


def _read(running: dict[int, _Sequence | _Part], result: Any) -> None:
    # Newer versions tell of the prompts that they work on too.
    for response in result[1] if type(result) is tuple else result:
        reason = response.finish_reason
        each = running.get(response.uid) if reason is None else running.pop(response.uid, None)
        if each is not None:
            each.token(reason)


def _settle(inference: Inference, _args: Any, _kwargs: Any, _result: Any) -> None:
    batch = None if inference.context is None else inference.context.get(_BATCH)
    if isinstance(batch, _Batch):
        inference.note_finish_reasons(batch.reasons)


def _abandon(running: dict[int, _Sequence | _Part]) -> None:
    for each in list(running.values()):
        each.abandon()
