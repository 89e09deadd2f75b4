"""CTranslate2: each batch given to a model is one request, whoever waits for its results.

The methods belong to compiled classes, whose attributes can be set all the same. With ``asynchronous=True``
they return one handle per example, and the request ends when all of these have given their results.
"""

from __future__ import annotations

import functools
import inspect
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.context import attach, detach

from otel_aimon import semconv
from otel_aimon.core.guard import guarded, swallow
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_async_generator_function, observed_iteration
from otel_aimon.instrumentation import ctranslate2_tokens as tokens
from otel_aimon.instrumentation.ctranslate2_results import HANDLES, Expected, Request
from otel_aimon.instrumentation.ctranslate2_tokens import Inputs
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

    Read = Callable[[tuple[Any, ...], dict[str, Any]], Inputs]

FRAMEWORK = "ctranslate2"

_TRANSLATION = "translation"


class _Call(NamedTuple):
    """A method that runs a model.

    Attributes:
        operation: What it does.
        layer: Where it stands.
        read: Reads its inputs.
        sequences: The attribute of a result that holds the generated sequences.
    """

    operation: str
    layer: Layer = Layer.MODEL
    read: Read = tokens.sound
    sequences: str | None = None


_BATCHES: dict[tuple[str, str], _Call] = {
    ("Generator", "generate_batch"): _Call(
        semconv.TEXT_COMPLETION, Layer.GENERATE, tokens.generator_prompts, "sequences"
    ),
    ("Generator", "score_batch"): _Call("score", read=tokens.generator_scored),
    ("Generator", "forward_batch"): _Call("forward", read=tokens.forward_inputs),
    ("Translator", "translate_batch"): _Call(
        _TRANSLATION, Layer.GENERATE, tokens.translator_sources, "hypotheses"
    ),
    ("Translator", "score_batch"): _Call("score", read=tokens.translator_scored),
    ("Encoder", "forward_batch"): _Call("forward", read=tokens.forward_inputs),
    ("Whisper", "generate"): _Call(
        semconv.TEXT_COMPLETION, Layer.GENERATE, tokens.whisper_prompts, "sequences_ids"
    ),
    ("Whisper", "encode"): _Call("encode"),
    ("Whisper", "detect_language"): _Call("detect_language"),
    ("Whisper", "align"): _Call("align"),
    ("Wav2Vec2", "encode"): _Call("encode"),
    ("Wav2Vec2Bert", "encode"): _Call("encode"),
}
"""Methods that take a batch and return its results."""

_STREAMS: dict[tuple[str, str], _Call] = {
    ("Generator", "generate_tokens"): _Call(semconv.TEXT_COMPLETION, Layer.GENERATE, tokens.generator_stream),
    ("Generator", "async_generate_tokens"): _Call(
        semconv.TEXT_COMPLETION, Layer.GENERATE, tokens.generator_stream
    ),
    ("Translator", "generate_tokens"): _Call(_TRANSLATION, Layer.GENERATE, tokens.translator_stream),
}
"""Methods that give a token at a time."""

_ITERABLES: dict[tuple[str, str], str] = {
    ("Generator", "generate_iterable"): "generate_iterable",
    ("Generator", "score_iterable"): "score_iterable",
    ("Translator", "translate_iterable"): "translate_iterable",
    ("Translator", "score_iterable"): "score_iterable",
}
"""Methods that work through any number of examples, in batches that are stages."""

_LATER = {("Generator", "async_generate_tokens")}
"""Methods that the oldest supported version does not have yet."""

_GEN_AI = {_TRANSLATION: semconv.TEXT_COMPLETION}
"""Operations that the gen_ai conventions call something else."""


def hook_models(hooks: Hooks, module: Any) -> None:
    """Hook the classes of models, and of results that are still to come.

    Args:
        hooks: Of CTranslate2.
        module: ``ctranslate2``.
    """
    compiled = vars(module._ext)
    models = _Models(hooks.recorder)
    for owner in dict.fromkeys(owner for owner, _ in _BATCHES):
        if owner in compiled:
            hooks.wrap(compiled[owner], "__init__", models.made)
    _hook(hooks, compiled, _BATCHES, models.batch)
    _hook(hooks, compiled, _STREAMS, models.stream)
    _hook(hooks, compiled, _ITERABLES, models.iterable)
    for handle in HANDLES:
        if handle in compiled:
            hooks.wrap(compiled[handle], "result", models.awaited)
            hooks.wrap(compiled[handle], "done", models.polled)


def _hook(
    hooks: Hooks, compiled: dict[str, Any], table: dict[tuple[str, str], Any], observe: Callable[..., Any]
) -> None:
    for (owner, method), call in table.items():
        # What a version does not have yet is none of its methods that we do not know.
        if owner in compiled and (method in vars(compiled[owner]) or (owner, method) not in _LATER):
            hooks.wrap(compiled[owner], method, functools.partial(observe, call))


class _Model(NamedTuple):
    """What is known of a loaded model."""

    name: str | None
    device: str | None


class _Models:
    """Starts the requests of all models, and ends those whose results are still to come."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._loaded: Known[_Model] = Known()
        self._expected: Known[Expected] = Known(Expected.dropped)

    def made(self, original: Any) -> Any:
        """Wrap the constructor, the only place where a model says what it is called."""

        @functools.wraps(original)
        def init(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            guarded(self._learn_name, args, kwargs)
            return result

        return init

    def _learn_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = args[1] if len(args) > 1 else kwargs.get("model_path")
        self._loaded.learn(args[0], _Model(path if type(path) is str else None, _device(args[0])))

    def _start(self, call: _Call, model: Any, inputs: Inputs, *, late: bool = False) -> Inference | None:
        known = self._loaded.of(model) or self._loaded.learn(model, _Model(None, _device(model)))
        series = self._recorder.series(
            FRAMEWORK, call.operation, known.name, gen_ai_operation=_GEN_AI.get(call.operation)
        )
        inference = self._recorder.start(series, call.layer, late=late)
        if inference is not None:
            inference.device = known.device
            inference.batch_size = inputs.examples
            inference.input_tokens = inputs.tokens
        return inference

    def batch(self, call: _Call, original: Any) -> Any:
        """Wrap a method that takes a batch: the request ends with it, or with the last result to come."""

        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            request = guarded(self._begin, call, args, kwargs)
            if request is None:
                return original(*args, **kwargs)
            if "callback" in kwargs:
                kwargs = guarded(request.timed, kwargs) or kwargs
            token = attach(request.inference.context)  # type: ignore[arg-type]
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                detach(token)
                request.inference.fail(error)
                raise
            detach(token)
            try:
                request.finish(result, self._expected)
            except Exception as error:
                swallow(error, "the results of a batch")
                request.inference.end()
            return result

        return method

    def _begin(self, call: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request | None:
        if not args:
            return None
        inputs = call.read(args, kwargs)
        # No Python runs in a batch but the user's callback.
        inference = self._start(call, args[0], inputs, late="callback" not in kwargs)
        return None if inference is None else Request(inference, inputs, call.sequences)

    def stream(self, call: _Call, original: Any) -> Any:
        """Wrap a generator function whose items are tokens."""

        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            generator = original(*args, **kwargs)
            inputs = guarded(call.read, args, kwargs) or Inputs()
            model = args[0] if args else None
            forced = inputs.forced_steps
            return _observed(
                generator,
                lambda: self._start(call, model, inputs),
                lambda inference, item: _count_token(inference, item.step - forced),
            )

        return method

    def iterable(self, operation: str, original: Any) -> Any:
        """Wrap a generator function whose items are results: the batches inside are stages."""
        call = _Call(operation, Layer.PIPELINE)

        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            generator = original(*args, **kwargs)
            model = args[0] if args else None
            return observed_iteration(generator, lambda: self._start(call, model, Inputs(0)), _count_example)

        return method

    def awaited(self, original: Any) -> Any:
        """Wrap ``result`` of a handle."""

        @functools.wraps(original)
        def result(*args: Any, **kwargs: Any) -> Any:
            expected = self._expected.take(args[0]) if args else None
            if expected is None:
                return original(*args, **kwargs)
            try:
                value = original(*args, **kwargs)
            except BaseException as error:
                expected.request.inference.fail(error)
                raise
            guarded(expected.got, value)
            return value

        return result

    def polled(self, original: Any) -> Any:
        """Wrap ``done`` of a handle, which may say that a result is ready long before it is taken."""

        @functools.wraps(original)
        def done(*args: Any, **kwargs: Any) -> Any:
            is_done = original(*args, **kwargs)
            if is_done is True and args:
                expected = self._expected.of(args[0])
                if expected is not None and expected.ready_ns is None:
                    expected.ready_ns = perf_counter_ns()
            return is_done

        return done


def _observed(generator: Any, start: Any, on_item: Any) -> Any:
    if not inspect.isasyncgen(generator):
        return observed_iteration(generator, start, on_item)
    stream: Any = observed_async_generator_function(lambda: generator, start, on_item)()
    stream.__name__, stream.__qualname__ = generator.__name__, generator.__qualname__
    return stream


def _count_token(inference: Inference, step: int) -> None:
    """Count a token of a stream, unless the user gave it: then its step is below zero."""
    if step >= 0:
        inference.chunk()
        inference.output_tokens = (inference.output_tokens or 0) + 1
        inference.steps = step + 1


def _count_example(inference: Inference, _result: Any) -> None:
    inference.batch_size += 1  # type: ignore[operator]


def _device(model: Any) -> str | None:
    """Where a model runs; with several devices, only of which kind."""
    device: str = model.device
    # One that was made from weights in memory may know neither.
    if not device or device == "cpu":
        return device or None
    index = model.device_index
    return f"{device}:{index[0]}" if len(index) == 1 else None
