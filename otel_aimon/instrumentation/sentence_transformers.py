"""Sentence Transformers: one request per call of an encoder, however many batches it takes.

The batches' forward passes are stages: an encoder is a torch module in eval mode.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.context import get_current

from otel_aimon import semconv
from otel_aimon.core.call import observed, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import running_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "sentence_transformers"

_REQUESTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "encode": (semconv.EMBEDDINGS, ("inputs", "sentences")),
    "encode_query": (semconv.EMBEDDINGS, ("inputs", "sentences")),
    "encode_document": (semconv.EMBEDDINGS, ("inputs", "sentences")),
    "encode_multi_process": (semconv.EMBEDDINGS, ("inputs", "sentences")),
    "predict": ("score", ("inputs", "sentences")),
    "rank": ("rerank", ("documents",)),
}
"""Method → operation, and the names that its versions have for the argument with the items."""

_ENCODERS = ("SentenceTransformer", "SparseEncoder", "MultiVectorEncoder", "CrossEncoder")

_TOKENIZERS = ("preprocess", "tokenize")
"""Where token ids come from: the newer name first, which the older one calls."""

_WORKERS = ("_multi_process_worker", "_encode_multi_process_worker")
"""What worker processes run: the request is the parent's."""


def hook_encoders(hooks: Hooks, module: Any) -> None:
    """Hook the encoders of the package.

    Args:
        hooks: Of Sentence Transformers.
        module: ``sentence_transformers``.
    """
    names = _Names()
    encoders = [getattr(module, name) for name in _ENCODERS if hasattr(module, name)]
    for owner in _bodies(encoders):
        for method, (operation, arguments) in _REQUESTS.items():
            if method in vars(owner):
                hooks.wrap(owner, method, _observer(hooks.recorder, names, method, operation, arguments))
        for worker in _WORKERS:
            if worker in vars(owner):
                hooks.wrap(owner, worker, lambda original: quiet(original, hooks.recorder))
        tokenizer = next((name for name in _TOKENIZERS if name in vars(owner)), None)
        if tokenizer is not None:
            hooks.wrap(owner, tokenizer, _count_tokens)


def _bodies(encoders: list[Any]) -> list[Any]:
    """The classes of the package that the encoders are made of, each once."""
    found = (cls for encoder in encoders for cls in encoder.__mro__)
    return [cls for cls in dict.fromkeys(found) if cls.__module__.startswith("sentence_transformers.")]


def _observer(
    recorder: Recorder, names: _Names, method: str, operation: str, arguments: tuple[str, ...]
) -> Callable[[Any], Any]:
    position = 2 if method == "rank" else 1
    batch_size = _pairs if method == "predict" else _items

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        encoder = args[0]
        inference = recorder.start(recorder.series(FRAMEWORK, operation, names.of(encoder)), Layer.PIPELINE)
        if inference is None:
            return None
        items = args[position] if len(args) > position else _named(arguments, kwargs)
        inference.batch_size = batch_size(items)
        inference.device = _device(encoder, kwargs)
        return inference

    return lambda original: observed(original, begin)


def _named(arguments: tuple[str, ...], kwargs: dict[str, Any]) -> Any:
    return next((kwargs[name] for name in arguments if name in kwargs), None)


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
    names = (getattr(config, "_name_or_path", None) for config in configs)
    return next((name for name in names if isinstance(name, str) and name), type(encoder).__name__)


def _device(encoder: Any, kwargs: dict[str, Any]) -> str | None:
    """Where it runs; absent when it runs in worker processes on several devices."""
    if kwargs.get("pool") is not None:
        return None
    device = kwargs.get("device")
    if isinstance(device, list):
        return None
    return str(encoder.device if device is None else device)


def _items(inputs: Any) -> int | None:
    """Items in what an encoder takes: one, or a sequence of them."""
    cls = type(inputs)
    if cls is str or cls is dict:
        return 1
    if cls is list or cls is tuple:
        return len(inputs)
    shape = getattr(inputs, "shape", None) if cls.__module__ == "numpy" else None
    return int(shape[0]) if shape else None


def _pairs(inputs: Any) -> int | None:
    """Pairs in what a cross-encoder takes: one pair, or a list of pairs."""
    if type(inputs) in {list, tuple} and inputs and type(inputs[0]) is str:
        return 1
    return _items(inputs)


# --- tokens ------------------------------------------------------------------------------------


def _count_tokens(original: Any) -> Any:
    @functools.wraps(original)
    def tokenize(*args: Any, **kwargs: Any) -> Any:
        features = original(*args, **kwargs)
        guarded(_add_tokens, features)
        return features

    return tokenize


def _add_tokens(features: Any) -> None:
    running = running_in(get_current())
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
