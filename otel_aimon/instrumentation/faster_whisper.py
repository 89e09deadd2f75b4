"""faster-whisper: each transcription is one request, from the call to its last segment.

``transcribe`` prepares the sound at once, and returns a generator of segments that does the rest, a window of
sound at a time. The model's calls inside belong to CTranslate2, whose instrumentation makes them stages.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_aimon.core.call import observed, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_generator
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "faster_whisper"

_WORKERS = ("WhisperModel", "BatchedInferencePipeline")
"""Classes that transcribe; the second, not in all versions, works with a model of the first."""


def hook_transcription(hooks: Hooks, module: Any) -> None:
    """Hook the classes that transcribe.

    Args:
        hooks: Of faster-whisper.
        module: ``faster_whisper.transcribe``.
    """
    models: Known[_Model] = Known()

    def begin(operation: str, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
        if not args:
            return None
        worker = args[0]
        worked_by = worker if isinstance(worker, module.WhisperModel) else worker.model
        model = models.of(worked_by) or models.learn(worked_by, _Model(None, _device(worked_by)))
        series = hooks.recorder.series(FRAMEWORK, operation, model.name)
        inference = hooks.recorder.start(series, Layer.PIPELINE)
        if inference is not None:
            inference.batch_size = 1
            inference.device = model.device
        return inference

    hooks.wrap(module.WhisperModel, "__init__", functools.partial(_observe_init, models))
    for owner in filter(None, (vars(module).get(name) for name in _WORKERS)):
        for method, streamed in (("transcribe", _follow), ("detect_language", None)):
            if method in vars(owner):
                start = functools.partial(begin, method)
                hooks.wrap(owner, method, functools.partial(observed, begin=start, streamed=streamed))
    # Voice activity is looked for with a small model of its own, many times per second of sound.
    hooks.wrap(module, "get_speech_timestamps", functools.partial(quiet, recorder=hooks.recorder))


class _Model(NamedTuple):
    """What is known of a loaded model."""

    name: str | None
    device: str | None


def _observe_init(models: Known[_Model], original: Any) -> Any:
    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        guarded(_learn, models, args, kwargs)
        return result

    return init


def _learn(models: Known[_Model], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    path = args[1] if len(args) > 1 else kwargs.get("model_size_or_path")
    models.learn(args[0], _Model(path if isinstance(path, str) else None, _device(args[0])))


def _device(model: Any) -> str | None:
    device: str = model.model.device
    index = model.model.device_index
    if device == "cpu":
        return device
    return f"{device}:{index[0]}" if len(index) == 1 else None


def _follow(inference: Inference, result: Any) -> Any:
    """The result of ``transcribe``, whose generator goes on with the request."""
    if type(result) is not tuple or len(result) != 2:
        return None
    segments, info = result
    inference.audio = float(info.duration)
    return observed_generator(segments, inference, _first_segment, rests=True), info


def _first_segment(inference: Inference, _segment: Any) -> None:
    # The window that a segment comes from may give several at once: what passes between two segments is
    # not the time that the tokens of the second took.
    inference.last_ns = inference.first_ns
