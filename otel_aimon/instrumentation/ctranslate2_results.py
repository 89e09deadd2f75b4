"""The results of a batch of CTranslate2: those that are there, and those that are still to come."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from otel_aimon.instrumentation.ctranslate2_tokens import Given, Inputs, generated

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.known import Known

HANDLES = (
    "AsyncGenerationResult",
    "AsyncScoringResult",
    "AsyncTranslationResult",
    "WhisperGenerationResultAsync",
)
"""Classes of the results that are still to come."""


class Request:
    """A running call.

    Args:
        inference: Its request.
        inputs: What it was given.
        sequences: The attribute of a result that holds the generated sequences, if it generates any.
    """

    __slots__ = ("_awaited", "_inputs", "_lengths", "_ready_ns", "_sequences", "inference")

    def __init__(self, inference: Inference, inputs: Inputs, sequences: str | None) -> None:
        self.inference = inference
        self._inputs = inputs
        self._sequences = sequences
        self._awaited: dict[int, None] = {}
        self._lengths: list[list[int] | None] = []
        self._ready_ns: list[int] = []

    def timed(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments, with the user's callback timed if there is one.

        A callback of ours alone would slow down every step, and forbid beam search.
        """
        callback = kwargs["callback"]
        if self._inputs.given is None or not callable(callback):
            return kwargs
        inference, forced = self.inference, self._inputs.forced_steps

        def step(result: Any) -> Any:
            if result.step >= forced:
                inference.chunk()
            return callback(result)

        return {**kwargs, "callback": step}

    def finish(self, results: Any, expected: Known[Expected]) -> None:
        """End with the results that are there, or wait for those that are still to come."""
        if not self._follow(results, expected):
            self._count(results)
            self.inference.end()

    def _follow(self, results: Any, expected: Known[Expected]) -> bool:
        if type(results) is not list or not results or type(results[0]).__name__ not in HANDLES:
            return False
        given = self._given(len(results))
        self._awaited = dict.fromkeys(range(len(results)))
        for index, handle in enumerate(results):
            expected.learn(handle, Expected(self, index, given[index]))
        return True

    def got(self, index: int, ready_ns: int, result: Any, given: Given | None) -> None:
        """Note the result of one example; with the last one the request ends."""
        self._read(result, given)
        self._ready_ns.append(ready_ns)
        self._awaited.pop(index, None)
        if not self._awaited:
            self._sum_up()
            self.inference.end(max(self._ready_ns))

    def _count(self, results: Any) -> None:
        if type(results) is list and self._sequences is not None:
            for result, given in zip(results, self._given(len(results)), strict=True):
                self._read(result, given)
            self._sum_up()

    def _given(self, examples: int) -> tuple[Given | None, ...]:
        given = self._inputs.given
        return given if given is not None and len(given) == examples else (None,) * examples

    def _read(self, result: Any, given: Given | None) -> None:
        attribute = self._sequences
        if attribute is not None:
            self._lengths.append(None if given is None else generated(getattr(result, attribute), given))

    def _sum_up(self) -> None:
        if not self._lengths or None in self._lengths:
            return
        lengths = [length for each in self._lengths if each is not None for length in each]
        self.inference.output_tokens = sum(lengths)
        self.inference.steps = max(lengths, default=0)


class Expected:
    """The result of one example, which is still to come.

    Attributes:
        request: Whose it is.
        ready_ns: When somebody saw that it is ready, on the monotonic clock.
    """

    __slots__ = ("_given", "_index", "ready_ns", "request")

    def __init__(self, request: Request, index: int, given: Given | None) -> None:
        self.request = request
        self.ready_ns: int | None = None
        self._index = index
        self._given = given

    def got(self, result: Any) -> None:
        """Note the result."""
        self.request.got(self._index, self.ready_ns or perf_counter_ns(), result, self._given)

    def dropped(self) -> None:
        """Note that nobody wants the result any more."""
        self.request.inference.abandon()
