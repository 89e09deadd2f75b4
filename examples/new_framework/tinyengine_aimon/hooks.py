"""TinyEngine: each ``predict``, and each iteration of ``generate``, is one request.

``generate`` calls ``predict`` once per token; such a call is inside the request and silent, which the layers see to.
"""

from __future__ import annotations

import functools
from typing import Any

from otel_aimon.extension import Hooks, Inference, Layer, observed, observed_stream, quiet, semconv

FRAMEWORK = "tinyengine"


def hook_models(hooks: Hooks, module: Any) -> None:
    """Hook the model and its tuner.

    Args:
        hooks: Of TinyEngine: replaces methods, and puts them back.
        module: ``tinyengine.model``.
    """
    recorder = hooks.recorder

    def begin_prediction(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        model, rows = args[0], _argument(args, kwargs, "rows")
        inference = recorder.start(recorder.series(FRAMEWORK, "predict", model.name), Layer.MODEL)
        if inference is not None:  # None for a call inside another request.
            inference.device = model.device
            # A list is the only type whose length costs nothing and has no side effect here.
            inference.batch_size = len(rows) if type(rows) is list else None
        return inference

    def begin_generation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        model, prompt = args[0], _argument(args, kwargs, "prompt")
        series = recorder.series(FRAMEWORK, semconv.TEXT_COMPLETION, model.name)
        inference = recorder.start(series, Layer.GENERATE)
        if inference is not None:
            inference.device = model.device
            inference.batch_size = 1
            # These are the ids, so their number is true; from a text nothing would be counted.
            inference.input_tokens = len(prompt) if type(prompt) is list else None
            inference.output_tokens = 0
        return inference

    model, tuner = module.Model, module.Tuner
    hooks.wrap(model, "predict", functools.partial(observed, begin=begin_prediction), ("rows",))
    stream = functools.partial(observed_stream, begin=begin_generation, on_item=_count_token)
    hooks.wrap(model, "generate", stream, ("prompt",))
    hooks.wrap(tuner, "fit", functools.partial(quiet, recorder=recorder))


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    """The first argument after ``self``, which may have been passed by name."""
    return args[1] if len(args) > 1 else kwargs.get(name)


def _count_token(inference: Inference, _token: int) -> None:
    # When the first and the last came is noted already.
    inference.output_tokens += 1  # type: ignore[operator]
