"""MLX LM: each generated text is one request, streamed, whole, in a batch, or asked of its server.

``generate`` collects what ``stream_generate`` yields, and the server answers by it what it cannot answer in a
batch. Batches are for :mod:`otel_aimon.instrumentation.mlx_lm_batches`.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, create_key, detach, get_current, set_value

from otel_aimon import semconv
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_generator_call
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.mlx_lm_batches import Batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "mlx_lm"

_STOP_WORDS = create_key("otel-aimon-mlx-lm-stop-words")
"""Under this key the context says that the server looks for words at which to leave a stream."""

_SHARED = ("stream_generate", "batch_generate")
"""Functions that other modules of the library import by name."""

_paths: Known[str] = Known()
"""Models → where they were loaded from."""


def hook_loading(hooks: Hooks, module: Any) -> None:
    """Hook the function that makes models, the only place where a model's path is seen.

    Args:
        hooks: Of MLX LM.
        module: ``mlx_lm.utils``.
    """
    hooks.wrap(module, "load_model", _loaded, ("model_path",))


def hook_generation(hooks: Hooks, module: Any) -> None:
    """Hook streams and batches.

    Args:
        hooks: Of MLX LM.
        module: ``mlx_lm.generate``, which is not the function of this name.
    """
    models = _Models(hooks.recorder, module.generation_stream)
    hooks.wrap(module, "stream_generate", models.streaming, ("model", "tokenizer"))
    if not hasattr(module, "BatchGenerator"):
        return
    batches = Batches(models.start)
    hooks.wrap(module, "batch_generate", batches.generation, ("model", "tokenizer", "prompts"))
    generator = module.BatchGenerator
    whole = "insert_segments" not in vars(generator)
    insertion = functools.partial(batches.insertion, whole)
    hooks.wrap(generator, "insert" if whole else "insert_segments", insertion)
    hooks.wrap(generator, "_next", batches.step)
    if "remove" in vars(generator):
        hooks.wrap(generator, "remove", batches.removal)


def hook_names(hooks: Hooks, module: Any) -> None:
    """Replace the functions where they were imported by name, before they were hooked or after.

    Args:
        hooks: Of MLX LM.
        module: ``mlx_lm`` or a part of it.
    """
    generation = vars(sys.modules["mlx_lm.generate"])
    for name in _SHARED:
        wrapper = generation.get(name)
        original = getattr(wrapper, "__wrapped__", None)
        found = vars(module).get(name)
        if original is not None and (found is wrapper or found is original):
            setattr(module, name, original)
            hooks.replace(module, name, wrapper)


def hook_server(hooks: Hooks, module: Any) -> None:
    """Hook the server's names, and what it answers outside of batches.

    Args:
        hooks: Of MLX LM.
        module: ``mlx_lm.server``.
    """
    hook_names(hooks, module)
    if hasattr(module, "ResponseGenerator"):
        hooks.wrap(module.ResponseGenerator, "_serve_single", functools.partial(_serving, _asked_for))
    else:
        hooks.wrap(module.APIHandler, "handle_completion", functools.partial(_serving, _given))


class _Stoppable:
    """A stream that its reader may leave at a stop word: leaving it is an end like any other.

    Attributes:
        inference: The request.
        context: The context in which its steps run.
    """

    __slots__ = ("context", "inference")

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self.context: Context | None = inference.context

    def end(self) -> None:
        """End the request."""
        self.inference.end()

    def abandon(self) -> None:
        """End the request: whether a word or a reader was the reason is not known."""
        self.inference.abandon(cancelled=False)

    def fail(self, error: BaseException) -> None:
        """End the request as failed."""
        self.abandon() if isinstance(error, GeneratorExit) else self.inference.fail(error)


class _Models:
    """Starts the requests of all models."""

    def __init__(self, recorder: Recorder, stream: Any) -> None:
        self._recorder = recorder
        self._device = guarded(_device, stream)

    def start(self, model: Any, tokenizer: Any = None) -> Inference | None:
        """Start a request."""
        name = _paths.of(model) or getattr(tokenizer, "name_or_path", None) or _architecture(model)
        series = self._recorder.series(FRAMEWORK, semconv.TEXT_COMPLETION, name)
        inference = self._recorder.start(series, Layer.GENERATE)
        if inference is not None:
            inference.device = self._device
        return inference

    def streaming(self, original: Any) -> Any:
        """Wrap ``stream_generate``."""

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            model = args[0] if args else kwargs.get("model")
            inference = self.start(model, args[1] if len(args) > 1 else kwargs.get("tokenizer"))
            if inference is None:
                return None
            inference.batch_size = 1
            return _Stoppable(inference) if get_current().get(_STOP_WORDS) else inference

        return observed_generator_call(original, begin, _read, chunks=False)


def _read(request: Any, item: Any) -> None:
    inference = request.inference if type(request) is _Stoppable else request
    tokens = item.generation_tokens
    if tokens != inference.output_tokens:
        inference.chunk()
        inference.output_tokens = tokens
        # Nothing is counted of a prompt that was given as embeddings.
        inference.input_tokens = item.prompt_tokens or None
    if item.finish_reason is not None:
        # The last one: whoever reads the reason need not ask for another item.
        inference.finish_reasons = (item.finish_reason,)
        inference.end()


def _loaded(original: Any) -> Any:
    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        path = args[0] if args else kwargs.get("model_path")
        model = result[0] if type(result) is tuple else result
        if path is not None:
            guarded(_paths.learn, model, str(path))
        return result

    return load


def _serving(has_stop_words: Callable[..., bool], original: Any) -> Any:
    @functools.wraps(original)
    def serve(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not guarded(has_stop_words, *args):
            return original(self, *args, **kwargs)
        token = attach(set_value(_STOP_WORDS, True))
        try:
            return original(self, *args, **kwargs)
        finally:
            detach(token)

    return serve


def _asked_for(request: Any, *_rest: Any) -> bool:
    _queue, _request, arguments = request
    return bool(arguments.stop_words)


def _given(_prompt: Any, words: Any, *_rest: Any) -> bool:
    return bool(words)


def _architecture(model: Any) -> str | None:
    """The kind of a model, such as ``llama``, where nothing says which one it is."""
    kind = getattr(model, "model_type", None)
    return kind if isinstance(kind, str) else None


def _device(stream: Any) -> str:
    return str(stream.device.type).rpartition(".")[2]
