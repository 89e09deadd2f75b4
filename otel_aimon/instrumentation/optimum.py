"""Optimum: a call of a model that ONNX Runtime runs for Transformers is one request.

To ONNX Runtime such a model is a file called ``model.onnx``, or several of them: an encoder and a decoder. So
``forward`` is the request, which every ``ORTModel`` defines in its own class, with the name that the model was
loaded by; the sessions inside are part of it. ``generate`` and pipelines are those of Transformers, and there a
forward is what it is for models of PyTorch: a stage of the pipeline, and silent in ``generate``.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.core.call import observed
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.classes import hook_method
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.tabular import hook_silent_functions, rows
from otel_aimon.instrumentation.torch_device import device_name
from otel_aimon.instrumentation.transformers_model import model_name

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.series import Series
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "optimum"

_OPERATIONS = {
    "ORTModelForFeatureExtraction": semconv.EMBEDDINGS,
    "ORTModelForMaskedLM": "fill-mask",
    "ORTModelForQuestionAnswering": "question-answering",
    "ORTModelForSequenceClassification": "text-classification",
    "ORTModelForTokenClassification": "token-classification",
    "ORTModelForMultipleChoice": "multiple-choice",
    "ORTModelForImageClassification": "image-classification",
    "ORTModelForZeroShotImageClassification": "zero-shot-image-classification",
    "ORTModelForSemanticSegmentation": "image-segmentation",
    "ORTModelForAudioClassification": "audio-classification",
    "ORTModelForCTC": "automatic-speech-recognition",
    "ORTModelForAudioXVector": "audio-xvector",
    "ORTModelForAudioFrameClassification": "audio-frame-classification",
    "ORTModelForImageToImage": "image-to-image",
}
"""Classes whose forward is all there is to their task, as pipelines call it; for others it is a step of it."""

_STEP = "forward"

_INPUTS = ("pixel_values", "input_features", "input_values", "input_ids")
"""Parameters whose rows are the items; the first that is passed."""


def hook_models(hooks: Hooks, module: Any) -> None:
    """Hook the models that exist, and those still to be imported or defined.

    Args:
        hooks: Of Optimum.
        module: ``optimum.onnxruntime.modeling``.
    """
    series: Known[Series] = Known()
    observe = functools.partial(_observe_forward, hooks, module.ORTModel, series)
    hook_method(hooks, module.ORTModel, "forward", observe)


def hook_export(hooks: Hooks, module: Any) -> None:
    """Hook the conversion of a model: what it runs to see how it went is nobody's request.

    Args:
        hooks: Of Optimum.
        module: ``optimum.exporters.onnx.convert``.
    """
    names = ("optimum.exporters.onnx", "optimum.exporters.onnx.__main__")
    others = [sys.modules[name] for name in names if name in sys.modules]
    hook_silent_functions(hooks, [module, *others], ("onnx_export_from_model",))


def _observe_forward(hooks: Hooks, base: type, series: Known[Series], original: Any) -> Any:
    recorder = hooks.recorder
    names = tuple(inspect.signature(original).parameters)
    inputs = tuple((name, names.index(name) if name in names else None) for name in _INPUTS)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        model = args[0] if args else None
        if not isinstance(model, base):
            return None
        known = series.of(model)
        if known is None:
            found = recorder.series(FRAMEWORK, _operation(type(model)), model_name(model))
            known = series.learn(model, found)
        inference = recorder.start(known, Layer.MODEL)
        if inference is not None:
            inference.batch_size = _batch_size(inputs, args, kwargs)
            inference.device = _device(model)
        return inference

    return observed(original, begin)


def _operation(cls: type) -> str:
    return next((_OPERATIONS[each.__name__] for each in cls.__mro__ if each.__name__ in _OPERATIONS), _STEP)


def _batch_size(
    inputs: tuple[tuple[str, int | None], ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> int | None:
    for name, place in inputs:
        value = kwargs.get(name)
        if value is None and place is not None and place < len(args):
            value = args[place]
        if value is not None:
            return rows(value)
    # Models of any other task name their inputs as they like.
    return rows(next(iter(kwargs.values()), None))


def _device(model: Any) -> str | None:
    """Where the model's sessions run; None where they run on different devices."""
    found = {getattr(part, "_device", None) for part in vars(model).get("parts", (model,))}
    device = found.pop()
    return None if found or device is None else device_name(device)
