"""Sentence Transformers: one request per call of an encoder, however many batches it takes.

The batches' forward passes are stages: an encoder is a torch module in eval mode.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, create_key, detach, get_current, set_value

from otel_aimon import semconv
from otel_aimon.core.call import observed, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import running_in
from otel_aimon.instrumentation.torch_device import module_device

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "sentence_transformers"

_ITEMS = ("inputs", "sentences", "documents")
"""Names that the versions have for the argument with the items."""

_REQUESTS: dict[str, str] = {
    "encode": semconv.EMBEDDINGS,
    "encode_query": semconv.EMBEDDINGS,
    "encode_document": semconv.EMBEDDINGS,
    "predict": "score",
    "rank": "rerank",
}
"""Method → operation. ``encode_multi_process`` calls ``encode``."""

_ENCODERS = ("SentenceTransformer", "SparseEncoder", "MultiVectorEncoder", "CrossEncoder")

_TOKENIZERS = ("preprocess", "tokenize")
"""Where token ids come from: the newer name first, which the older one calls."""

_PROMPT = "_get_prompt_length"
_UNCOUNTED = create_key("otel-aimon-uncounted")

_WORKERS = ("_multi_process_worker", "_encode_multi_process_worker")
"""What worker processes run: the request is the parent's."""


def hook_encoders(hooks: Hooks, module: Any) -> None:
    """Hook the encoders of the package.

    Args:
        hooks: Of Sentence Transformers.
        module: ``sentence_transformers``.
    """
    observe = functools.partial(_observe, hooks.recorder, _Names())
    encoders = [getattr(module, name) for name in _ENCODERS if hasattr(module, name)]
    for owner in _bodies(encoders):
        body = vars(owner)
        for method, operation in _REQUESTS.items():
            if method in body:
                hooks.wrap(owner, method, functools.partial(observe, operation))
        for worker in _WORKERS:
            if worker in body:
                hooks.wrap(owner, worker, lambda original: quiet(original, hooks.recorder))
        tokenizer = next((name for name in _TOKENIZERS if name in body), None)
        if tokenizer is not None:
            hooks.wrap(owner, tokenizer, _count_tokens)
        if _PROMPT in body:
            hooks.wrap(owner, _PROMPT, _uncounted)


def _bodies(encoders: list[Any]) -> list[Any]:
    """The classes of the package that the encoders are made of, each once."""
    found = (cls for encoder in encoders for cls in encoder.__mro__)
    return [cls for cls in dict.fromkeys(found) if cls.__module__.startswith("sentence_transformers.")]


def _observe(recorder: Recorder, names: _Names, operation: str, original: Any) -> Any:
    positions = {name: index for index, name in enumerate(inspect.signature(original).parameters)}
    count = _pairs if operation == "score" else _items

    def argument(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        position = positions.get(name, len(args))
        return args[position] if position < len(args) else kwargs.get(name)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        encoder = argument("self", args, kwargs)
        inference = recorder.start(recorder.series(FRAMEWORK, operation, names.of(encoder)), Layer.PIPELINE)
        if inference is None:
            return None
        # A name that went out of use is still taken, by a decorator of the framework.
        known = (argument(name, args, kwargs) for name in _ITEMS if name in positions or name in kwargs)
        inference.batch_size = count(next((items for items in known if items is not None), None))
        inference.device = None if elsewhere(args, kwargs) else _device(encoder)
        return inference

    def elsewhere(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Worker processes do it, on devices of theirs; or the encoder is still to be moved."""
        return argument("pool", args, kwargs) is not None or argument("device", args, kwargs) is not None

    def finish(inference: Inference, args: tuple[Any, ...], kwargs: dict[str, Any], _result: Any) -> None:
        in_workers = argument("pool", args, kwargs) is not None
        if not in_workers and not isinstance(argument("device", args, kwargs), list):
            inference.device = _device(argument("self", args, kwargs))

    return observed(original, begin, finish)


class _Names:
    """What encoders are called; each is asked once."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def of(self, encoder: Any) -> str:
        """The name or path that the encoder's language model was loaded from, else its class."""
        name = self._known.get(encoder)
        if name is None:
            name = self._known[encoder] = _model_name(encoder)
        return name


def _model_name(encoder: Any) -> str:
    configs = (getattr(part, "config", None) for part in encoder.modules())
    names = [getattr(config, "_name_or_path", None) for config in configs]
    # An encoder without a language model, such as one of static embeddings, is known by its card.
    names.append(getattr(getattr(encoder, "model_card_data", None), "base_model", None))
    return next((name for name in names if isinstance(name, str) and name), type(encoder).__name__)


def _device(encoder: Any) -> str | None:
    module = encoder if hasattr(encoder, "parameters") else getattr(encoder, "model", None)
    return None if module is None else module_device(module)


def _items(inputs: Any) -> int | None:
    """Items in what an encoder takes: one, or a sequence of them; None where it is not certain which."""
    cls = type(inputs)
    if cls is str or cls is dict:
        return 1
    if cls is list and inputs and type(inputs[0]) is dict and {"role", "content"} <= inputs[0].keys():
        return 1  # A conversation.
    if cls is list or cls is tuple:
        return len(inputs)
    return _texts(inputs, dimensions=1)


def _pairs(inputs: Any) -> int | None:
    """Pairs in what a cross-encoder takes: one pair, or a sequence of them."""
    cls = type(inputs)
    if cls is not list and cls is not tuple:
        return _texts(inputs, dimensions=2)
    if not inputs:
        return 0
    first = type(inputs[0])
    if first is str:
        return 1
    return len(inputs) if first is list or first is tuple else None


def _texts(array: Any, *, dimensions: int) -> int | None:
    """Items in an array of texts, where a single item has ``dimensions`` - 1 dimensions."""
    cls = type(array)
    if cls.__module__ != "numpy" or cls.__name__ != "ndarray" or array.dtype.kind not in "UO":
        return None
    return int(array.shape[0]) if array.ndim >= dimensions else 1


# --- tokens ------------------------------------------------------------------------------------


def _count_tokens(original: Any) -> Any:
    @functools.wraps(original)
    def tokenize(*args: Any, **kwargs: Any) -> Any:
        features = original(*args, **kwargs)
        guarded(_add_tokens, features)
        return features

    return tokenize


def _uncounted(original: Any) -> Any:
    """Older versions tokenize a prompt alone, to know its length: these ids are not the request's."""

    @functools.wraps(original)
    def prompt_length(*args: Any, **kwargs: Any) -> Any:
        token = attach(set_value(_UNCOUNTED, True))
        try:
            return original(*args, **kwargs)
        finally:
            detach(token)

    return prompt_length


def _add_tokens(features: Any) -> None:
    current = get_current()
    running = None if current.get(_UNCOUNTED) else running_in(current)
    if running is not None and running.layer is Layer.PIPELINE and running.series.framework == FRAMEWORK:
        running.add_input_tokens(_tokens(features))


def _tokens(features: Any) -> int | None:
    """Ids that are no padding, in features fresh from the tokenizer, which makes them on the CPU."""
    if not isinstance(features, Mapping) or "input_ids" not in features or "attention_mask" not in features:
        return None
    mask = features["attention_mask"]
    if getattr(getattr(mask, "device", None), "type", None) != "cpu":
        return None
    return int(mask.count_nonzero())
