"""Pipelines: one request per call.

Every task's pipeline comes to ``Pipeline.__call__``. A list or a single item is worked off there; a
dataset or a generator gives a lazy result, for :mod:`otel_aimon.instrumentation.transformers_lazy`.
"""

from __future__ import annotations

import functools
import inspect
import re
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_aimon import semconv
from otel_aimon.core.call import observed
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.transformers_lazy import follow
from otel_aimon.instrumentation.transformers_model import FRAMEWORK, device_name, model_name

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series
    from otel_aimon.instrumentation.hooks import Hooks

_OPERATIONS = {
    "text-generation": semconv.TEXT_COMPLETION,
    "text2text-generation": semconv.TEXT_COMPLETION,
    "feature-extraction": semconv.EMBEDDINGS,
    "image-feature-extraction": semconv.EMBEDDINGS,
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
    "vqa": "visual-question-answering",
    "text-to-speech": "text-to-audio",
}
"""Tasks whose operation has another name; ``translation_en_to_fr`` is ``translation`` too."""

_COMPLETIONS = frozenset(
    {
        "any-to-any",
        "document-question-answering",
        "image-text-to-text",
        "image-to-text",
        "summarization",
        "table-question-answering",
        "translation",
        "visual-question-answering",
    }
)
"""Operations that write text when their model generates; some of their models classify."""

_SEVERAL_PROMPTS = frozenset({"any-to-any", "image-text-to-text"})
"""Tasks in which one dictionary may hold several prompts."""


class _Kind(NamedTuple):
    """What a call's input is.

    Attributes:
        items: How many items it holds; None when that is not certain.
        chat: It is a conversation, or a list of them.
    """

    items: int | None
    chat: bool = False


def hook_pipelines(hooks: Hooks, module: Any) -> None:
    """Hook the base of all pipelines.

    Args:
        hooks: Of Transformers.
        module: ``transformers.pipelines.base``.
    """
    if module.Dataset is None:
        hooks.leave_out("Pipeline", "it runs without PyTorch")
        return
    pipeline = module.Pipeline
    hooks.wrap(pipeline, "__call__", functools.partial(_observe_call, hooks.recorder, module), ("inputs",))
    observe_iterator = functools.partial(_observe_iterator, hooks.recorder, module)
    observe_single = functools.partial(_observe_eager, hooks.recorder, module)
    for owner in (pipeline, module.ChunkPipeline):
        hooks.wrap(owner, "get_iterator", observe_iterator, ("inputs",))
        # What looked lazy and was not, such as a conversation in a generator, comes here at once.
        hooks.wrap(owner, "run_single", observe_single, ("inputs",))


# --- the call ----------------------------------------------------------------------------------


def _observe_call(recorder: Recorder, module: Any, original: Any) -> Any:
    position = _input_position(original)
    eager = _observe_eager(recorder, module, original)
    lazy_inputs = (GeneratorType, module.Dataset)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        lazy = isinstance(_inputs(position, args, kwargs), lazy_inputs)
        return original(*args, **kwargs) if lazy else eager(*args, **kwargs)

    return call


def _observe_iterator(recorder: Recorder, module: Any, original: Any) -> Any:
    position = _input_position(original)

    @functools.wraps(original)
    def get_iterator(*args: Any, **kwargs: Any) -> Any:
        iterator = original(*args, **kwargs)
        guarded(_follow, recorder, module, args[0], _inputs(position, args, kwargs), iterator)
        return iterator

    return get_iterator


def _follow(recorder: Recorder, module: Any, pipeline: Any, inputs: Any, iterator: Any) -> None:
    operation = _operation(pipeline)
    # A whole dataset of conversations comes as a list of them, and is worked off at once.
    kind = _kind(inputs, operation, messages=hasattr(module, "is_valid_message"))
    follow(recorder, _series(recorder, pipeline, operation, chat=kind.chat), device_name(pipeline), iterator)


def _observe_eager(recorder: Recorder, module: Any, original: Any) -> Any:
    return observed(original, functools.partial(_begin, recorder, module, _input_position(original)))


def _begin(
    recorder: Recorder, module: Any, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Inference | None:
    pipeline = args[0]
    operation = _operation(pipeline)
    kind = _kind(_inputs(position, args, kwargs), operation, messages=hasattr(module, "is_valid_message"))
    inference = recorder.start(_series(recorder, pipeline, operation, chat=kind.chat), Layer.PIPELINE)
    if inference is not None:
        inference.batch_size = kind.items
        inference.device = device_name(pipeline)
    return inference


def _input_position(function: Any) -> int:
    return list(inspect.signature(function).parameters).index("inputs")


def _inputs(position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[position] if len(args) > position else kwargs.get("inputs")


# --- the names ---------------------------------------------------------------------------------


def _operation(pipeline: Any) -> str:
    return _operation_of(pipeline.task, type(pipeline).__name__)


@functools.lru_cache(maxsize=256)
def _operation_of(task: str | None, class_name: str) -> str:
    """The task; for a pipeline that was made without one, what its class is called after."""
    if not task:
        words = re.findall(r"[A-Z][a-z0-9]*", class_name.removesuffix("Pipeline"))
        task = "-".join(words).lower().replace("text2-text", "text2text") or class_name
    return _OPERATIONS.get(task, "translation" if task.startswith("translation_") else task)


def _series(recorder: Recorder, pipeline: Any, operation: str, *, chat: bool) -> Series:
    gen_ai = _gen_ai_operation(pipeline, operation)
    if chat and gen_ai == semconv.TEXT_COMPLETION:
        gen_ai = semconv.CHAT
        if operation == semconv.TEXT_COMPLETION:
            operation = semconv.CHAT
    name = model_name(pipeline.model)
    return recorder.series(FRAMEWORK, recorder.operations.admit(operation), name, gen_ai_operation=gen_ai)


def _gen_ai_operation(pipeline: Any, operation: str) -> str | None:
    if operation in semconv.GEN_AI_OPERATIONS:
        return operation
    if operation not in _COMPLETIONS:
        return None
    can_generate = getattr(pipeline.model, "can_generate", None)
    return semconv.TEXT_COMPLETION if can_generate is not None and can_generate() else None


# --- the input ---------------------------------------------------------------------------------


def _kind(inputs: Any, operation: str, *, messages: bool) -> _Kind:
    """Tell what is certain of an input by the framework's own rules, reading no content.

    Args:
        inputs: As they come to ``Pipeline.__call__``.
        operation: The pipeline's operation.
        messages: This version takes lists of messages for conversations in every pipeline; older
            ones have made a ``Chat`` of them before.
    """
    cls = type(inputs)
    if _is_chat(inputs):
        return _Kind(1, chat=True)
    if cls in {list, tuple} and inputs:
        first = inputs[0]
        if messages and _is_message(first):
            return _Kind(1, chat=True)
        nested = messages and type(first) in {list, tuple} and bool(first) and _is_message(first[0])
        # A tuple is one item to a pipeline, whatever its tokenizer makes of it.
        return _Kind(len(inputs) if cls is list or nested else None, chat=nested or _is_chat(first))
    if cls is list:
        return _Kind(0)
    if isinstance(inputs, (list, tuple)) or (cls is dict and operation in _SEVERAL_PROMPTS):
        return _Kind(None)
    return _Kind(1)


def _is_message(item: Any) -> bool:
    return type(item) is dict and "role" in item and "content" in item


def _is_chat(item: Any) -> bool:
    cls = type(item)
    return cls.__name__ == "Chat" and cls.__module__.startswith("transformers.")
