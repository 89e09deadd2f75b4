"""spaCy: each text given to a pipeline, and each stream of texts, is one request.

``Language.pipe`` is a generator: its request follows the iteration, whose pace is the user's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_aimon.core.call import observed
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_iteration
from otel_aimon.instrumentation.tabular import hook_silent, package

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "spacy"

_SILENT = ("update", "rehearse", "evaluate", "initialize")


def hook_languages(hooks: Hooks, module: Any) -> None:
    """Hook ``Language``, the parent of all pipelines.

    Args:
        hooks: Of spaCy.
        module: ``spacy.language``.
    """
    recorder, language = hooks.recorder, module.Language

    def begin(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
        return _start(recorder, "call", args[0], 1) if args else None

    hooks.wrap(language, "__call__", functools.partial(observed, begin=begin))
    hooks.wrap(language, "pipe", functools.partial(_observe_pipe, recorder))
    hook_silent(hooks, language, _SILENT)
    # What worker processes run: the request is the parent's.
    hook_silent(hooks, module, ("_apply_pipes",))


def hook_rulers(hooks: Hooks, module: Any) -> None:
    """Hook a component that runs its pipeline over its own patterns when it gets them.

    Args:
        hooks: Of spaCy.
        module: ``spacy.pipeline.entityruler`` or ``spacy.pipeline.span_ruler``.
    """
    for ruler in ("EntityRuler", "SpanRuler"):
        cls = vars(module).get(ruler)
        if cls is not None and cls.__module__ == module.__name__:
            hook_silent(hooks, cls, ("add_patterns",))


def _observe_pipe(recorder: Recorder, original: Any) -> Any:
    @functools.wraps(original)
    def pipe(*args: Any, **kwargs: Any) -> Any:
        generator = original(*args, **kwargs)
        nlp = args[0] if args else kwargs.get("self")
        return observed_iteration(generator, lambda: _start(recorder, "pipe", nlp, 0), _count)

    return pipe


def _start(recorder: Recorder, operation: str, nlp: Any, documents: int) -> Inference | None:
    state = vars(nlp)
    # As its package would be called: the property ``meta`` lists all labels.
    name = f"{nlp.lang}_{state['_meta'].get('name', 'pipeline')}"
    device = _device(state)
    inference = recorder.start(recorder.series(FRAMEWORK, operation, name), Layer.PIPELINE)
    if inference is not None:
        inference.batch_size = documents
        inference.device = device
    return inference


def _count(inference: Inference, _document: Any) -> None:
    inference.batch_size += 1  # type: ignore[operator]


def _device(state: dict[str, Any]) -> str | None:
    """The device of the models, the CPU without any; None with a component that may run anywhere."""
    device = "cpu"
    for name, component in state["_components"]:
        if name in state["_disabled"]:
            continue
        if package(type(component)) != FRAMEWORK:
            return None
        ops: Any = getattr(getattr(component, "model", None), "ops", None)
        if ops is None:
            continue
        if ops.name == "mps":
            # Its layers of PyTorch run on Apple's GPU, its own on the CPU.
            return None
        if ops.device_type == "gpu":
            device = f"cuda:{ops.device_id}"
    return device
