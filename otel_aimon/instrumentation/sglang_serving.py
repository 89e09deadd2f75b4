"""What a request of SGLang is: told by the interface that it came through."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.context import create_key, get_current

from otel_aimon import semconv
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.classes import hook_method
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from otel_aimon.instrumentation.hooks import Hooks

OPERATION = create_key("otel-aimon-sglang-operation")
"""Under this key the context inside a call of the user carries the operation of all its requests."""

_BY_PREFIX = {
    "chatcmpl-": semconv.CHAT,
    "cmpl-": semconv.TEXT_COMPLETION,
    "embd-": semconv.EMBEDDINGS,
    "classify-": "classify",
    "rerank-": "rerank",
    "score-": "score",
    "trsc-": "transcription",
}
"""Operations of the OpenAI server's classes, by the prefix of their ids."""

_RESPONSE = "resp_"
"""How the ids of responses begin, whose inputs are made in more places than one."""

_operations: Known[str] = Known()
"""Operations of the inputs that the OpenAI server's classes make."""


def hook_serving(hooks: Hooks, module: Any) -> None:
    """Hook where the classes of the OpenAI server translate what a client sent."""
    hook_method(hooks, module.OpenAIServingBase, "_convert_to_internal_request", _observe_translation)


def _observe_translation(original: Any) -> Any:
    @functools.wraps(original)
    def translate(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        guarded(_note, self, result)
        return result

    return translate


def _note(serving: Any, translated: Any) -> None:
    operation = _BY_PREFIX.get(serving._request_id_prefix())
    if operation is not None and type(translated) is tuple and translated:
        _operations.learn(translated[0], operation)


def hook_ollama(hooks: Hooks, module: Any) -> None:
    """Hook where the server answers chats in Ollama's words."""
    for name in ("_generate_chat_response", "_stream_chat_response"):
        hooks.wrap(module.OllamaServing, name, _observe_chat, ("gen_request",))


def _observe_chat(original: Any) -> Any:
    @functools.wraps(original)
    async def respond(self: Any, gen_request: Any, *args: Any, **kwargs: Any) -> Any:
        guarded(_operations.learn, gen_request, semconv.CHAT)
        return await original(self, gen_request, *args, **kwargs)

    return respond


def operation_of(obj: Any, *, generative: bool) -> str:
    """What the requests of an input do.

    Args:
        obj: A ``GenerateReqInput`` or an ``EmbeddingReqInput``.
        generative: It is the former.
    """
    known = get_current().get(OPERATION) or _operations.of(obj)
    if isinstance(known, str):
        return known
    if generative:
        rid = getattr(obj, "rid", None)
        is_response = isinstance(rid, str) and rid.startswith(_RESPONSE)
        return semconv.CHAT if is_response else semconv.TEXT_COMPLETION
    return "rerank" if getattr(obj, "is_cross_encoder_request", False) else semconv.EMBEDDINGS
