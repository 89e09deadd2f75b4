"""llama-cpp-python: each completion, chat and embedding is one request.

A chat renders its prompt and asks for a completion, and a completion takes its tokens one by one from
``Llama.generate``. That is where tokens are counted and timed: chunks of text are not tokens, and bear no usage.
"""

from __future__ import annotations

import functools
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from opentelemetry.context import create_key, get_current, set_value

from otel_aimon import semconv
from otel_aimon.core.call import observed
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_generator, observed_generator_function

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "llama_cpp"

_DECODING = create_key("otel-aimon-llama-cpp-decoding")
"""Under this key the context carries the request whose tokens are being counted."""

_COMPLETIONS = {"create_completion": semconv.TEXT_COMPLETION, "create_chat_completion": semconv.CHAT}
"""Methods that return a completion, or a generator of its chunks → what they do."""


def hook_models(hooks: Hooks, module: Any) -> None:
    """Hook ``Llama``.

    Args:
        hooks: Of llama-cpp-python.
        module: ``llama_cpp.llama``.
    """
    models = _Models(hooks.recorder, module.llama_cpp)
    for method, operation in _COMPLETIONS.items():
        hooks.wrap(module.Llama, method, functools.partial(models.completion, operation))
    hooks.wrap(module.Llama, "generate", models.generation)
    for method, count in (("create_embedding", _count_embedded), ("embed", _count_returned)):
        hooks.wrap(module.Llama, method, functools.partial(models.embedding, count))


class _Decoding:
    """The decoding of one completion.

    It stands for the request in the observation of ``generate``, which neither starts nor ends it.

    Attributes:
        inference: The request.
        context: The context in which its steps run, if not the current one.
    """

    __slots__ = ("_before_ns", "_first_ns", "_is_end", "_last", "_tokens", "context", "inference")

    def __init__(self, inference: Inference, is_end: Callable[[int], bool]) -> None:
        self.inference = inference
        self.context: Context | None = None
        self._is_end = is_end
        self._tokens = 0
        self._last = -1
        self._first_ns = 0
        self._before_ns = 0

    def begin(self, prompt: Any) -> None:
        """Note the prompt of a generation; a chat that calls functions has several."""
        self.settle()
        self.inference.add_input_tokens(len(prompt) if type(prompt) is list else None)
        self.inference.output_tokens = self.inference.output_tokens or 0

    def token(self, token: int) -> None:
        """Count a token that has just come."""
        inference = self.inference
        self._before_ns = inference.last_ns
        inference.chunk()
        if not self._tokens:
            self._first_ns = inference.last_ns
        self._tokens += 1
        self._last = token
        inference.output_tokens += 1  # type: ignore[operator]

    def settle(self) -> None:
        """Take back the token that only ends the text: nobody gets it, and the framework counts it nowhere."""
        inference = self.inference
        if self._tokens and self._is_end(self._last):
            self._tokens -= 1
            inference.output_tokens -= 1  # type: ignore[operator]
            inference.last_ns = self._before_ns
            if not inference.output_tokens:
                inference.first_ns = 0
        if self._tokens > 1:
            inference.decode_ns += inference.last_ns - self._first_ns
            inference.decode_steps += self._tokens - 1
        self._tokens = 0

    def end(self) -> None:
        """Leave the end to the completion."""

    def abandon(self) -> None:
        """Leave the end to the completion."""

    def fail(self, error: BaseException) -> None:
        """Leave the end to the completion."""


class _Alone(_Decoding):
    """A decoding that nobody but the user asked for: the request itself. It goes on until they leave it."""

    __slots__ = ()

    def end(self) -> None:
        """End the request."""
        self.inference.end()

    def abandon(self) -> None:
        """End the request: there is no other end."""
        self.inference.abandon(cancelled=False)

    def fail(self, error: BaseException) -> None:
        """End the request as failed."""
        self.abandon() if isinstance(error, GeneratorExit) else self.inference.fail(error)


class _Models:
    """Starts the requests of all models."""

    def __init__(self, recorder: Recorder, library: Any) -> None:
        self._recorder = recorder
        self._library = library
        # A library that cannot offload has nothing but the CPU; of one that can, nobody says where a model is.
        self._device = None if library.llama_supports_gpu_offload() else "cpu"

    def _start(self, operation: str, model: Any, layer: Layer) -> Inference | None:
        name = model.metadata.get("general.name") or model.model_path
        inference = self._recorder.start(self._recorder.series(FRAMEWORK, operation, name), layer)
        if inference is not None:
            inference.device = self._device
        return inference

    def _is_end(self, model: Any, token: int) -> bool:
        """Whether a token ends the text. Asked only while the model has just made it, and so is there."""
        inner = model._model
        if hasattr(self._library, "llama_vocab_is_eog"):
            return bool(self._library.llama_vocab_is_eog(inner.vocab, token))
        return bool(self._library.llama_token_is_eog(inner.model, token))

    def completion(self, operation: str, original: Any) -> Any:
        """Wrap a method that completes a prompt or a chat."""

        def begin(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
            if not args:
                return None
            inference = self._start(operation, args[0], Layer.GENERATE)
            if inference is not None and inference.context is not None:
                inference.batch_size = 1
                decoding = _Decoding(inference, functools.partial(self._is_end, args[0]))
                inference.context = set_value(_DECODING, decoding, inference.context)
            return inference

        return observed(original, begin, _finish, streamed=_follow)

    def generation(self, original: Any) -> Any:
        """Wrap ``generate``: the tokens of a completion, or a request of its own where it is used alone."""

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            generator = original(*args, **kwargs)
            model = args[0] if args else None
            prompt = args[1] if len(args) > 1 else kwargs.get("tokens")
            counted: Any = observed_generator_function(
                lambda: generator, functools.partial(self._begin, model, prompt), _count, chunks=False
            )
            return counted()

        return generate

    def _begin(self, model: Any, prompt: Any) -> Any:
        decoding = _decoding() or self._alone(model)
        if decoding is not None:
            decoding.begin(prompt)
        return decoding

    def _alone(self, model: Any) -> _Decoding | None:
        inference = self._start(semconv.TEXT_COMPLETION, model, Layer.GENERATE)
        if inference is None:
            return None
        inference.batch_size = 1
        alone = _Alone(inference, functools.partial(self._is_end, model))
        alone.context = inference.context
        return alone

    def embedding(self, count: Callable[[Any], int | None], original: Any) -> Any:
        """Wrap a method that embeds texts."""

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
            if not args:
                return None
            inference = self._start(semconv.EMBEDDINGS, args[0], Layer.MODEL)
            if inference is not None:
                texts = args[1] if len(args) > 1 else kwargs.get("input")
                inference.batch_size = (
                    1 if isinstance(texts, str) else len(texts) if type(texts) is list else None
                )
            return inference

        def finish(inference: Inference, _args: Any, _kwargs: Any, result: Any) -> None:
            inference.input_tokens = count(result)

        return observed(original, begin, finish)


def _decoding() -> _Decoding | None:
    found = get_current().get(_DECODING)
    return found if isinstance(found, _Decoding) and not found.inference.end_ns else None


def _count(decoding: Any, token: Any) -> None:
    decoding.token(token)


def _follow(inference: Inference, result: Any) -> Generator[Any, Any, Any] | None:
    if not isinstance(result, GeneratorType):
        return None
    return observed_generator(result, inference, _read_chunk, chunks=False)


def _read_chunk(inference: Inference, chunk: Any) -> None:
    if chunk["choices"][0]["finish_reason"] is not None:
        _read_end(inference, chunk)


def _finish(inference: Inference, _args: Any, _kwargs: Any, result: Any) -> None:
    _read_end(inference, result)


def _read_end(inference: Inference, result: Any) -> None:
    inference.finish_reasons = (result["choices"][0]["finish_reason"],)
    decoding = None if inference.context is None else inference.context.get(_DECODING)
    if isinstance(decoding, _Decoding):
        guarded(decoding.settle)


def _count_embedded(result: Any) -> int | None:
    return int(result["usage"]["prompt_tokens"])


def _count_returned(result: Any) -> int | None:
    """Tokens of texts, which ``embed`` returns only where it is asked to."""
    return result[1] if type(result) is tuple and len(result) == 2 else None
