"""TensorRT-LLM: each call of ``generate`` is one request, and so is each prompt given to ``generate_async``.

``generate_async`` returns an output that its user waits for, iterates or awaits. All of these ways take the engine's
responses from a queue in ``_handle_response``: that is where tokens are counted and where the request ends.
"""

from __future__ import annotations

import functools
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.core.call import observed, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "tensorrt_llm"

_CANCELLED = "cancelled"
"""The finish reason of an output that was aborted."""


def hook_llm(hooks: Hooks, module: Any) -> None:
    """Hook what prompts are given to, and the outputs that come of them.

    Args:
        hooks: Of TensorRT-LLM.
        module: ``tensorrt_llm.llmapi.llm``.
    """
    requests = _Requests(hooks.recorder)
    # From 1.0 on, the class of both backends.
    llm = getattr(module, "BaseLLM", None) or module.LLM
    hooks.wrap(llm, "generate", requests.batch, ("inputs",))
    hooks.wrap(llm, "generate_async", requests.submission)
    hooks.wrap(module.DetokenizedGenerationResultBase, "_handle_response", requests.response)
    hooks.wrap(module.GenerationResult, "abort", requests.abortion)


def hook_loop(hooks: Hooks, module: Any) -> None:
    """Silence the loop of the PyTorch backend, in which a step is for many requests: its model is none of its own.

    Args:
        hooks: Of TensorRT-LLM.
        module: ``tensorrt_llm._torch.pyexecutor.py_executor``.
    """
    hooks.wrap(module.PyExecutor, "_event_loop_wrapper", functools.partial(quiet, recorder=hooks.recorder))


class _Request:
    """A prompt whose output somebody takes.

    Attributes:
        inference: The request.
        reading: A response is being handled, in which TensorRT-LLM itself may abort what it has read enough of.
    """

    __slots__ = ("_first", "_streams", "_submitted_ns", "inference", "reading")

    def __init__(self, inference: Inference, *, streams: bool) -> None:
        self.inference = inference
        self.reading = False
        self._streams = streams
        self._first = 0
        self._submitted_ns = perf_counter_ns()

    def read(self, output: Any) -> None:
        """Read an output to which a response was just added."""
        inference = self.inference
        if self._streams:
            tokens = sum(len(each.token_ids) for each in output._outputs)
            if tokens > (inference.output_tokens or 0):
                inference.chunk()
                self._first = self._first or tokens
                inference.output_tokens = tokens
        if output.finished:
            self._finish(inference, output)

    def _finish(self, inference: Inference, output: Any) -> None:
        _read_outputs(inference, (output,))
        steps = inference.steps or 0
        if 1 < self._first < steps and inference.batch_size == 1 and len(output.outputs) == 1:
            # The first response brought several tokens.
            inference.decode_ns = inference.last_ns - inference.first_ns
            inference.decode_steps = steps - self._first
        at_ns = None if self._streams else _read_times(inference, output, self._submitted_ns)
        if all(reason == _CANCELLED for reason in inference.finish_reasons or (None,)):
            inference.cancel()
        else:
            inference.end(at_ns)


class _Requests:
    """Follows the requests of all models; keeps no output alive."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._running: Known[_Request] = Known(lambda request: request.inference.abandon())

    def _start(self, llm: Any) -> Inference | None:
        series = self._recorder.series(FRAMEWORK, semconv.TEXT_COMPLETION, str(llm.args.model))
        inference = self._recorder.start(series, Layer.GENERATE)
        if inference is not None:
            inference.device = "cuda"
        return inference

    def batch(self, original: Any) -> Any:
        """Wrap ``generate``, which waits for one output after another: when each came, only the last one says."""

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
            inference = self._start(args[0])
            if inference is not None:
                inputs = args[1] if len(args) > 1 else kwargs.get("inputs")
                several = type(inputs) is list and inputs and type(inputs[0]) is not int
                inference.batch_size = len(inputs) if several else 1  # type: ignore[arg-type]
            return inference

        return observed(original, begin, _read_batch)

    def submission(self, original: Any) -> Any:
        """Wrap ``generate_async``."""
        return observed(original, self._begin, streamed=self._follow)

    def _begin(self, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
        inference = self._start(args[0])
        if inference is not None:
            inference.batch_size = 1
        return inference

    def _follow(self, inference: Inference, output: Any) -> Any:
        self._running.learn(output, _Request(inference, streams=bool(output._streaming)))
        return output

    def response(self, original: Any) -> Any:
        """Wrap the method that adds a response to an output."""

        @functools.wraps(original)
        def handle(output: Any, *args: Any, **kwargs: Any) -> Any:
            request = self._running.of(output)
            if request is None:
                return original(output, *args, **kwargs)
            request.reading = True
            try:
                result = original(output, *args, **kwargs)
            except BaseException as error:
                request.inference.fail(error)
                raise
            finally:
                request.reading = False
            guarded(request.read, output)
            return result

        return handle

    def abortion(self, original: Any) -> Any:
        """Wrap ``abort``, after which nobody need take the output."""

        @functools.wraps(original)
        def abort(output: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(output, *args, **kwargs)
            request = self._running.of(output)
            if request is not None and not request.reading:
                request.inference.cancel()
            return result

        return abort


def _read_batch(inference: Inference, _args: Any, _kwargs: Any, result: Any) -> None:
    outputs = result if type(result) is list else [result]
    _read_outputs(inference, outputs)


def _read_outputs(inference: Inference, outputs: Any) -> None:
    """Count what has been generated, and for what."""
    inference.input_tokens = sum(len(each.prompt_token_ids) for each in outputs)
    # Nought is told too where nothing is reused.
    inference.cached_tokens = sum(getattr(each, "cached_tokens", 0) for each in outputs) or None
    completions = [completion for each in outputs for completion in each.outputs]
    if any(completion._postprocess_result is not None for completion in completions):
        # Another process has made its answer of them, and kept the ids.
        inference.output_tokens = None
        return
    lengths = [len(completion.token_ids) for completion in completions]
    inference.output_tokens = sum(lengths)
    inference.steps = max(lengths, default=0)
    inference.note_finish_reasons([completion.finish_reason for completion in completions])


def _read_times(inference: Inference, output: Any, submitted_ns: int) -> int | None:
    """Take the engine's own times, where it tells them, and return when it had the last token."""
    told = {getattr(key, "name", key): value for key, value in getattr(output, "metrics_dict", {}).items()}
    waited, first, whole = (told.get(name) for name in ("REQUEST_QUEUE_TIME", "TTFT", "E2E"))
    if isinstance(waited, float):
        inference.queue_ns = round(waited * 1e9)
    if not isinstance(first, float) or not isinstance(whole, float):
        return None
    inference.first_ns = submitted_ns + round(first * 1e9)
    inference.last_ns = submitted_ns + round(whole * 1e9)
    return inference.last_ns
